"""Debian's synthesisers as sources of speech with exact phones: flite through its C library, festival as a command.

Both tell which phones they spoke and when each ended, so that the corpus needs no aligner. flite runs inside the
process (its start-up costs as much as a sentence); festival speaks a whole batch of sentences in one run.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from cosyvoice.errors import MissingDependencyError
from cosyvoice.text.phones import from_synthesiser, lay_out_sentence

PAUSE = "pau"


@dataclass(frozen=True)
class BaseVoice:
    """A voice of a synthesiser."""

    name: str
    engine: str
    identifier: str
    gender: str
    share: int
    """How many of every 17 warped speakers come from this voice, and its part of the unwarped speech: the clearest
    and the cheapest have most."""
    licence: str


BASE_VOICES = (
    BaseVoice("rms", "flite", "cmu_us_rms", "male", 4, "CMU Arctic licence (free, BSD-like)"),
    BaseVoice("awb", "flite", "cmu_us_awb", "male", 2, "CMU Arctic licence (free, BSD-like)"),
    BaseVoice("kal16", "flite", "cmu_us_kal16", "male", 2, "flite licence (free, BSD-like)"),
    BaseVoice("slt", "flite", "cmu_us_slt", "female", 5, "CMU Arctic licence (free, BSD-like)"),
    BaseVoice("slt_hts", "festival", "cmu_us_slt_arctic_hts", "female", 1, "CMU Arctic licence (free, BSD-like)"),
    BaseVoice("kal_diphone", "festival", "kal_diphone", "male", 2, "festvox licence (free, BSD-like)"),
    BaseVoice("ked_diphone", "festival", "ked_diphone", "male", 1, "festvox licence (free, BSD-like)"),
)


@dataclass
class Spoken:
    """A spoken sentence: samples in [-1, 1], and for each segment its phone symbol (`pau` is a pause) and end (s)."""

    samples: np.ndarray
    sample_rate: int
    segments: list[tuple[str, float]]
    symbols: list[str]
    """The sentence as text tokens: phones with boundaries and punctuation (`cosyvoice.text.phones`)."""


Word = tuple[list[tuple[str, int]], str]
"""The phones of a word with their stress, and the punctuation mark behind it."""


def _spell(words: list[Word], ends: list[tuple[str, float]]) -> tuple[list[tuple[str, float]], list[str]]:
    """Join word structure and segment times into our symbols.

    Festival's `ked` inserts an `r` that belongs to no word behind `er`: its time joins the phone before it.
    """
    places = [(w, p) for w, (phones, _) in enumerate(words) for p in range(len(phones))]
    spelled: list[list[str]] = [[] for _ in words]
    spoken: list[tuple[str, float]] = []
    index, last = 0, 0.0
    for name, end in ends:
        if name == PAUSE:
            if spoken and spoken[-1][0] == PAUSE:
                spoken.pop()
            spoken.append((PAUSE, end))
        else:
            word, position = places[min(index, len(places) - 1)]
            expected, stress = words[word][0][position]
            if index < len(places) and expected == name:
                index += 1
                symbols = from_synthesiser(name, stress)
                spelled[word] += symbols
                # A syllabic consonant is two symbols: they share its time.
                for k, symbol in enumerate(symbols):
                    spoken.append((symbol, last + (end - last) * (k + 1) / len(symbols)))
            elif spoken:
                spoken[-1] = (spoken[-1][0], end)
        last = end
    if index != len(places):
        raise ValueError("the synthesiser's words and segments disagree")
    layout = lay_out_sentence([(list(s), mark) for s, (_, mark) in zip(spelled, words, strict=True) if s])
    return spoken, layout


def _mark(punctuation: str) -> str:
    return "".join(c for c in punctuation if c in ",.?!;:-") if punctuation != "0" else ""


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


class Flite:
    """The flite library with its American voices, loaded once."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL("libflite.so.1", mode=ctypes.RTLD_GLOBAL)
            for name in ("usenglish", "cmulex"):
                ctypes.CDLL(f"libflite_{name}.so.1", mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise MissingDependencyError("the corpus needs flite: apt-get install flite") from error
        self._lib.flite_init()
        self._voices: dict[str, int] = {}
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        self._synthesise = self._function("flite_synth_text", pointer, text, pointer)
        self._wave = self._function("utt_wave", pointer, pointer)
        self._relation = self._function("utt_relation", pointer, pointer, text)
        self._head = self._function("relation_head", pointer, pointer)
        self._next = self._function("item_next", pointer, pointer)
        self._string = self._function("ffeature_string", text, pointer, text)
        self._float = self._function("ffeature_float", ctypes.c_float, pointer, text)
        self._path = self._function("path_to_item", pointer, pointer, text)
        self._delete = self._function("delete_utterance", None, pointer)
        self._set_float = self._function("feat_set_float", None, pointer, text, ctypes.c_float)

    def _function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        function = getattr(self._lib, name)
        function.restype, function.argtypes = result, list(arguments)
        return function

    def _voice(self, identifier: str) -> int:
        if identifier not in self._voices:
            library = ctypes.CDLL(f"libflite_{identifier}.so.1", mode=ctypes.RTLD_GLOBAL)
            register = getattr(library, f"register_{identifier}")
            register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
            self._voices[identifier] = register(None)
        return self._voices[identifier]

    def speak(self, identifier: str, text: str, duration_stretch: float = 1.0) -> Spoken:
        """Speak `text`; `duration_stretch` > 1 is slower."""
        voice = self._voice(identifier)
        features = ctypes.cast(voice, ctypes.POINTER(ctypes.c_void_p))[1]
        self._set_float(features, b"duration_stretch", duration_stretch)
        utterance = self._synthesise(text.encode("ascii"), voice)
        try:
            wave = ctypes.cast(self._wave(utterance), ctypes.POINTER(_Wave)).contents
            samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.float32) / 32768
            ends: list[tuple[str, float]] = []
            words: list[Word] = []
            previous_word = previous_token = None
            segment = self._head(self._relation(utterance, b"Segment"))
            while segment:
                name = self._string(segment, b"name").decode()
                ends.append((name, self._float(segment, b"end")))
                word = self._path(segment, b"R:SylStructure.parent.parent")
                if name != PAUSE and word:
                    if word != previous_word:
                        token = self._path(word, b"R:Token.parent")
                        mark = _mark(self._string(token, b"punc").decode())
                        if words and token == previous_token:
                            # The mark belongs to the last word of the token ("$4.50," -> four dollars fifty cents ,).
                            words[-1] = (words[-1][0], "")
                        words.append(([], mark))
                        previous_word, previous_token = word, token
                    words[-1][0].append((name, int(self._string(segment, b"R:SylStructure.parent.stress") == b"1")))
                segment = self._next(segment)
            sample_rate = wave.sample_rate
        finally:
            self._delete(utterance)
        return Spoken(samples, sample_rate, *_spell(words, ends))


_FESTIVAL_SCRIPT = """
(define (tell text wav)
 (let ((utt (utt.synth (eval (list 'Utterance 'Text text)))))
  (utt.save.wave utt wav 'riff)
  (format t "U %s\\n" wav)
  (mapcar (lambda (s) (format t "S %s %f\\n" (item.name s) (item.feat s "end"))) (utt.relation.items utt 'Segment))
  (mapcar
   (lambda (token)
    (mapcar
     (lambda (w)
      (format t "W\\n")
      (mapcar
       (lambda (syl)
        (mapcar (lambda (seg) (format t "P %s %s\\n" (item.name seg) (item.feat syl "stress")))
                (item.daughters (item.relation syl 'SylStructure))))
       (item.daughters (item.relation w 'SylStructure))))
     (item.daughters token))
    (format t "T %s\\n" (item.feat token "punc")))
   (utt.relation.items utt 'Token))))
"""


def require_synthesisers() -> None:
    """Raises `MissingDependencyError`, with the command that installs them, unless both synthesisers are there."""
    Flite()
    _require_festival()


def _require_festival() -> None:
    if shutil.which("festival") is None:
        raise MissingDependencyError(
            "the corpus needs festival: apt-get install festival festvox-us-slt-hts festvox-kallpc16k festvox-kdlpc16k"
        )


def festival_speak(identifier: str, texts: list[str], duration_stretch: float = 1.0) -> list[Spoken]:
    """Speak all `texts` with one run of festival."""
    _require_festival()
    with tempfile.TemporaryDirectory() as folder:
        script = [
            f"(voice_{identifier})",
            f"(Parameter.set 'Duration_Stretch {duration_stretch})",
            _FESTIVAL_SCRIPT,
        ]
        for i, text in enumerate(texts):
            quoted = text.replace("\\", "").replace('"', "")
            script.append(f'(tell "{quoted}" "{folder}/{i}.wav")')
        path = Path(folder) / "speak.scm"
        path.write_text("\n".join(script))
        run = subprocess.run(["festival", "-b", str(path)], capture_output=True, text=True, check=True)
        blocks = run.stdout.split("U " + folder)[1:]
        return [_read_festival(block, Path(folder) / f"{i}.wav") for i, block in enumerate(blocks)]


def _read_festival(block: str, wav: Path) -> Spoken:
    ends: list[tuple[str, float]] = []
    words: list[Word] = []
    for line in block.splitlines()[1:]:
        kind, *rest = line.split()
        if kind == "S":
            ends.append((rest[0], float(rest[1])))
        elif kind == "W":
            words.append(([], ""))
        elif kind == "T" and rest and (mark := _mark(rest[0])):
            # Punctuation is a word without phones: the mark belongs to the word before it.
            spoken = [w for w in range(len(words)) if words[w][0]]
            if spoken:
                words[spoken[-1]] = (words[spoken[-1]][0], mark)
        elif kind == "P":
            words[-1][0].append((rest[0], int(rest[1] == "1")))
    samples, sample_rate = soundfile.read(wav, dtype="float32")
    return Spoken(samples, sample_rate, *_spell(words, ends))
