// Time: the modelled timeline for Perfetto, and a measured trace of torch.profiler beside the record.

const PERFETTO = "https://ui.perfetto.dev";

// The same trace that `report --perfetto` writes: a process a policy, a thread a graph; microseconds.
function timeline() {
  const events = [], bandwidth = data.bandwidth || data.unknownBandwidth;
  const round = (n) => Math.round(n * 1e4) / 1e4;
  const meta = (name, pid, tid, text) => events.push({ ph: "M", name, pid, tid, args: { name: text } });
  all.forEach((policy, p) => {
    const pid = p + 1;
    meta("process_name", pid, 0, `${policy} (modelled)`);
    graphs.forEach((graph, g) => {
      if (!graph.kernels[policy]) return;
      const tid = g + 1;
      meta("thread_name", pid, tid, `graph ${tid}: ${graph.kind}`);
      let now = 0, moved = 0;
      for (const kernel of graph.kernels[policy]) {
        const sizes = (pairs) => { const found = {}; for (const [name, bytes] of pairs) found[name] = (found[name] ?? 0) + bytes; return found; };
        const common = { name: kernel.family, pid, tid, ts: round(now) };
        const args = { kernel: kernel.name, kind: kernel.kind, reads: sizes(kernel.reads), writes: sizes(kernel.writes) };
        if (!kernel.fused) { events.push({ ...common, ph: "i", s: "t", cat: kernel.kind, args }); continue; }
        const length = (Math.max(kernel.bytes, data.balance * kernel.work) / bandwidth) * 1e6;
        moved += kernel.bytes;
        events.push({ ...common, ph: "X", dur: round(length), cat: "fused", args: { ...args, bytes: kernel.bytes, operations: kernel.work, computes: kernel.computes } });
        now += length;
        events.push({ ph: "C", name: `bytes moved, graph ${tid}`, pid, ts: round(now), args: { bytes: moved } });
      }
    });
  });
  return { traceEvents: events, displayTimeUnit: "ms", otherData: { target: data.target, device: data.device, note: "durations are modelled from bytes, operations and the data sheet's bandwidth" } };
}

// Perfetto's page answers PONG as soon as it can take a trace; nothing is uploaded anywhere.
function openPerfetto() {
  const status = $("perfetto-status");
  const page = window.open(PERFETTO);
  if (!page) { status.textContent = "The browser did not open a window: allow it, or save the trace and open it there."; return; }
  const buffer = new TextEncoder().encode(JSON.stringify(timeline())).buffer;
  status.textContent = "Waiting for ui.perfetto.dev …";
  let tries = 0;
  const timer = setInterval(() => {
    if (page.closed || ++tries > 120) { stop(); status.textContent = "ui.perfetto.dev did not answer: save the trace and open it there."; } else page.postMessage("PING", PERFETTO);
  }, 250);
  const stop = () => { clearInterval(timer); removeEventListener("message", answer); };
  function answer(event) {
    if (event.origin !== PERFETTO || event.data !== "PONG") return;
    stop();
    page.postMessage({ perfetto: { buffer, title: `${data.target}: ${all.join(", ")} (modelled)` } }, PERFETTO);
    status.textContent = "Handed over to the window that was opened.";
  }
  addEventListener("message", answer);
}

// Name -> how often, and the median of its microseconds; of what a GPU ran, without its launch on the CPU.
function kernelsOf(trace) {
  const events = Array.isArray(trace) ? trace : trace?.traceEvents;
  if (!Array.isArray(events)) throw new Error("there are no traceEvents in it; prof.export_chrome_trace(FILE) writes them");
  const sides = [new Map(), new Map()];
  for (const event of events) {
    const name = event?.ph === "X" && /(?:triton_|cpp_)\w*fused\w*/.exec(String(event.name))?.[0];
    if (!name) continue;
    const side = sides[Number(event.cat === "kernel")];
    if (!side.has(name)) side.set(name, []);
    side.get(name).push(Number(event.dur ?? 0));
  }
  const median = (times) => { const sorted = [...times].sort((a, b) => a - b), half = sorted.length >> 1; return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2; };
  const found = Object.fromEntries([...sides[0], ...sides[1]].map(([name, times]) => [name, [times.length, median(times)]]));
  if (!Object.keys(found).length) throw new Error(`none of its ${events.length} events is a kernel of Inductor (triton_…, cpp_fused_…)`);
  return found;
}

const measured = {
  start() {
    $("trace-file").addEventListener("change", (event) => this.load(event.target.files[0]));
    if (data.measured) this.take(data.measured.name, data.measured.kernels);
  },

  async load(file) {
    if (!file) return;
    const blob = /\.gz$/.test(file.name) ? gunzip(file) : file.stream();
    try { this.take(file.name, kernelsOf(JSON.parse(await new Response(blob).text()))); } catch (error) {
      $("measured").replaceChildren(nothing(`${file.name} cannot be read as a trace of torch.profiler: ${error.message}.`));
    }
  },

  take(name, kernels) {
    this.kernels = new Map(Object.entries(kernels));
    this.name = name;
    const having = all.map((policy) => this.functions(policy).filter((row) => row.ran).length);
    if (!graphs.some((graph) => Object.keys(graph.sources).length)) {
      $("measured").replaceChildren(nothing(`${name} has ${count(this.kernels.size, "kernel")}, but this record does not know the names of its own: make it with `, mono("torch-materialize explain … --code"), "."));
      return;
    }
    const most = Math.max(...having);
    this.policy = having[priced] === most ? chosen : all[having.indexOf(most)];
    this.render();
  },

  // One row a generated function; launches of one function move the same bytes, or their mean is shown.
  functions(policy) {
    const found = new Map();
    for (const graph of graphs) for (const kernel of graph.kernels[policy] ?? []) if (kernel.function) {
      const row = found.get(kernel.function) ?? { name: kernel.function, kernels: [], graphs: new Set() };
      row.kernels.push(kernel);
      row.graphs.add(graph.g);
      found.set(kernel.function, row);
    }
    return [...found.values()].map((row) => {
      const [times, each] = this.kernels.get(row.name) ?? [0, null];
      const bytes = sum(row.kernels, (k) => k.bytes) / row.kernels.length;
      return { ...row, ran: times, each, bytes, speed: each ? bytes / (each * 1e-6) : null, whole: each ? each * row.kernels.length : 0 };
    });
  },

  render() {
    const rows = this.functions(this.policy), ran = rows.filter((row) => row.ran).sort((a, b) => b.whole - a.whole);
    const known = new Set(rows.map((row) => row.name)), strange = [...this.kernels.keys()].filter((name) => !known.has(name));
    const choice = el("select", { "aria-label": "policy that the trace ran under", oninput: (event) => { this.policy = event.target.value; this.render(); } },
      ...all.map((policy) => el("option", { value: policy, selected: policy === this.policy }, policy)));
    const twice = ran.filter((row) => row.graphs.size > 1).length, peak = data.bandwidth;
    const fastest = Math.max(peak, ...ran.map((row) => row.speed), 1);
    const bar = (row) => el("span", { class: "speed", title: peak ? `${percent(row.speed / peak)} of ${(peak / 1e12).toPrecision(3)} TB/s` : "" },
      el("i", { style: `width:${((100 * row.speed) / fastest).toFixed(1)}%` }), peak ? el("u", { style: `left:${((100 * peak) / fastest).toFixed(1)}%` }) : "");
    $("measured").replaceChildren(
      el("p", {}, el("b", {}, "Measured: "), `${this.name}, held against `, choice, `: ${ran.length} of its ${count(rows.length, "generated function")} ran in the trace, ${
        (sum(ran, (row) => row.whole) / 1e3).toPrecision(3)} ms a call in all${strange.length ? `; ${count(strange.length, "kernel")} of the trace ${strange.length === 1 ? "is" : "are"} not in this record` : ""}.`,
      twice ? ` ${count(twice, "name")} stand${twice === 1 ? "s" : ""} for kernels of several graphs, whose times are mixed.` : ""),
      ran.length ? el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "measured kernels" }, el("table", { class: "rows" }, el("thead", {}, el("tr", {}, ...["Kernel", "Launches", "Measured each, median", "Moves", `Speed${peak ? `, the line is ${(peak / 1e12).toPrecision(3)} TB/s of the data sheet` : ""}`].map((name, n) => el("th", { scope: "col", class: n ? "num" : undefined }, name)))),
        el("tbody", {}, ...ran.slice(0, 100).map((row) => el("tr", {}, el("th", { scope: "row" }, link(row.kernels[0].id, `${row.kernels[0].family}`), " ", el("small", { class: "called", title: row.name }, row.name)),
          el("td", { class: "num", "data-name": "Launches" }, row.kernels.length), el("td", { class: "num", "data-name": "Measured each" }, `${row.each.toPrecision(3)} µs`), el("td", { class: "num", "data-name": "Moves" }, size(row.bytes)),
          el("td", { class: "num", "data-name": "Speed" }, bar(row), `${size(row.speed)}/s`))))))
        : nothing("None of the names agree: the trace is of another model, size, policy or torch."));
  },
};
