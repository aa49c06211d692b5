from pathlib import Path
from threading import Barrier, Event

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cosyvoice.errors import ConfigError, GenerationError, ModelError
from cosyvoice.native.runtime import Runtime, available_threads, run, run_error


def graph(path: Path, operation: str = "Neg", domain: str = "", opset: int = 20) -> Path:
    node = helper.make_node(operation, ["x"], ["y"], domain=domain)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    made = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=10), path)
    return path


def test_a_session_runs(tmp_path: Path) -> None:
    runtime = Runtime(threads=1)
    session = runtime.session(graph(tmp_path / "neg.onnx"))
    assert run(session, None, {"x": np.array([1, -2], np.float32)})[0].tolist() == [-1, 2]
    assert runtime.description["threads"] == "1"
    assert Runtime().threads == available_threads() >= 1


@pytest.mark.parametrize(("version", "spins"), [("1.26.0", "0"), ("1.27.0", "1"), ("2.0", "1")])
def test_threads_spin_only_where_the_time_can_be_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, spins: str
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", version)
    options = Runtime(2).session(graph(tmp_path / "a.onnx"), spin=10).get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == spins
    if spins == "1":
        assert options.get_session_config_entry("session.intra_op.spin_duration_us") == "10"
    options = Runtime(2).session(graph(tmp_path / "b.onnx")).get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_threads_have_to_be_positive() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Runtime(threads=0)


def test_missing_and_damaged_graphs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing"):
        Runtime().session(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="no intact graph"):
        Runtime().session(tmp_path / "bad.onnx")


def test_graphs_that_the_runtime_is_too_old_for(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="newer ONNX Runtime"):
        Runtime().session(graph(tmp_path / "opset.onnx", opset=999))
    with pytest.raises(ModelError, match="newer ONNX Runtime"):
        Runtime().session(graph(tmp_path / "operation.onnx", "NotYetInvented", "com.microsoft"))


def test_failures_while_running_are_errors_of_generation(tmp_path: Path) -> None:
    session = Runtime(1).session(graph(tmp_path / "neg.onnx"))
    with pytest.raises(GenerationError, match="native engine failed"):
        run(session, None, {"x": np.zeros(3, np.float32)})
    assert "out of memory" in str(run_error(RuntimeError("std::bad_alloc")))


def test_tasks_side_by_side() -> None:
    runtime, both_are_here = Runtime(2), Barrier(2, timeout=10)

    def task(number: int) -> int:
        both_are_here.wait()
        return number

    assert runtime.side_by_side([lambda: task(1), lambda: task(2)]) == [1, 2]
    assert runtime.side_by_side([]) == []
    # The one helper is held up, so the caller does everything.
    held_up = Event()
    runtime._helpers.submit(held_up.wait, 10)
    assert runtime.side_by_side([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]
    assert not held_up.is_set()
    held_up.set()
    with pytest.raises(GenerationError, match="second"):
        runtime.side_by_side([lambda: 1, _fails])


def _fails() -> int:
    raise GenerationError("the second task")
