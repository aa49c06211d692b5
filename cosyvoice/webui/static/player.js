// Plays raw 16-bit samples while they are still being made. All chunks are scheduled in the clock of one audio
// context, each exactly where the one before ends, so there is nothing to hear between them. The last samples of a
// chunk wait for the next one; where that is late they fade out, and the speech goes on softly after a longer reserve.
(() => {
  const RESERVE = 0.15; // seconds between arrival and playing; doubled by every chunk that is late
  const FADE = 240; // samples
  const fresh = () => ({
    sources: [], tail: null, until: 0, reserve: RESERVE, played: 0, chunks: 0, underruns: 0, finished: false,
  });
  const state = { context: null, ...fresh() };
  let current = 0;
  let last = "";

  function context(rate) {
    if (!state.context || state.context.sampleRate !== rate) {
      if (state.context) state.context.close();
      state.context = new AudioContext({ sampleRate: rate });
    }
    state.context.resume();
    return state.context;
  }

  function stop() {
    current += 1;
    for (const source of state.sources) source.stop();
    state.sources = [];
    state.tail = null;
  }

  // A source that begins at state.until.
  function start(audio, samples) {
    const buffer = audio.createBuffer(1, samples.length, audio.sampleRate);
    buffer.copyToChannel(samples, 0);
    const source = audio.createBufferSource();
    source.buffer = buffer;
    source.connect(audio.destination);
    source.start(state.until);
    state.sources.push(source);
    source.onended = () => { state.sources = state.sources.filter((item) => item !== source); };
    return source;
  }

  const faded = (samples, gain) => samples.map((value, index) => value * gain(index / samples.length));

  function joined(first, second) {
    const both = new Float32Array(first.length + second.length);
    both.set(first);
    both.set(second, first.length);
    return both;
  }

  // The samples that wait, if they are not playing yet; they are taken back from the schedule.
  function takeTail(audio) {
    const tail = state.tail;
    state.tail = null;
    if (!tail || audio.currentTime >= state.until) return null;
    tail.source.stop();
    return tail.samples;
  }

  function schedule(audio, samples) {
    state.played += samples.length;
    state.chunks += 1;
    const waiting = takeTail(audio);
    if (waiting) {
      samples = joined(waiting, samples);
    } else {
      if (state.chunks > 1) {
        state.underruns += 1;
        state.reserve *= 2;
        const edge = Math.min(FADE, samples.length);
        samples = joined(faded(samples.slice(0, edge), (x) => x), samples.slice(edge));
      }
      state.until = audio.currentTime + state.reserve;
    }
    const kept = Math.max(samples.length - FADE, 0);
    if (kept) {
      start(audio, samples.slice(0, kept));
      state.until += kept / audio.sampleRate;
    }
    const rest = samples.slice(kept);
    state.tail = { samples: rest, source: start(audio, faded(rest, (x) => 1 - x)) };
  }

  function finish(audio) {
    const waiting = takeTail(audio);
    if (waiting) start(audio, waiting);
    state.finished = true;
  }

  async function play(name) {
    // The page tells of a change more than once.
    if (name === last) return;
    last = name;
    stop();
    if (!name) return;
    const mine = current;
    Object.assign(state, fresh());
    const base = window.location.pathname.replace(/\/$/, "");
    const response = await fetch(`${base}/speech/${name}`);
    if (!response.ok || mine !== current) return;
    const audio = context(Number(response.headers.get("x-sample-rate")));
    const reader = response.body.getReader();
    let rest = new Uint8Array(0);
    for (;;) {
      const { done, value } = await reader.read();
      if (mine !== current) { reader.cancel(); return; }
      if (done) break;
      const bytes = new Uint8Array(rest.length + value.length);
      bytes.set(rest);
      bytes.set(value, rest.length);
      const whole = bytes.length - (bytes.length % 2);
      rest = bytes.slice(whole);
      const integers = new Int16Array(bytes.buffer, 0, whole / 2);
      if (integers.length) schedule(audio, Float32Array.from(integers, (sample) => sample / 32768));
    }
    finish(audio);
  }

  window.cosyvoicePlayer = { play, stop, state };
})();
