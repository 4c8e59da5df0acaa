// What-if: decisions turned over one by one.  The figures are the planner's estimates, and the
// page says so, with the lines that have the model compiled that way.

const flips = new Map();  // tensor's id -> tensor

function flipSwitch(t) {
  if (t.ifStored === null) return "–";
  return el("label", { class: "flip", title: `estimate what all kernels move with ${t.name} ${t.stored[priced] ? "inlined" : "stored"}` },
    el("input", { type: "checkbox", role: "switch", "data-flip": t.id, checked: flips.has(t.id), "aria-label": `${t.stored[priced] ? "inline" : "store"} ${t.name} instead`,
      oninput: (event) => { event.target.checked ? flips.set(t.id, t) : flips.delete(t.id); showFlips(); } }),
    t.stored[priced] ? "inline" : "store");
}

// The decisions that are turned over: a group that is turned over as a whole has a price of its
// own, and so has one tensor alone.
function flipPrices() {
  const left = new Set(flips.values()), parts = [];
  for (const graph of graphs) for (const [names, stored, inlined] of graph.groups) {
    const group = names.map((name) => graph.named.get(name));
    if (group.length < 2 || !group.every((t) => left.has(t))) continue;
    const now = group[0].stored[priced] ? stored : inlined, other = group[0].stored[priced] ? inlined : stored;
    parts.push(other - now);
    for (const t of group) left.delete(t);
  }
  for (const t of left) parts.push(otherwise(t));
  return parts;
}

function showFlips() {
  state.set("flips", [...flips.keys()].join("~"));
  for (const box of document.querySelectorAll("[data-flip]")) box.checked = flips.has(box.dataset.flip);
  const panel = $("whatif");
  panel.hidden = !flips.size;
  if (!flips.size) return;
  const parts = flipPrices(), extra = sum(parts);
  const total = sum(graphs.flatMap((graph) => graph.kernels[chosen]).filter((k) => k.fused), (k) => k.bytes);
  const pins = [...flips.values()].map((t) => t.flip);
  panel.replaceChildren(
    el("div", {}, el("b", {}, `Estimate, not measured: ${size(total)} ${extra < 0 ? "−" : "+"} ${size(Math.abs(extra))} = ${size(total + extra)}`),
      el("small", {}, ` with ${count(flips.size, "decision")} turned over; by the planner's model, everything else as ${chosen} has it.${
        parts.length > 1 ? " Each was priced alone: where they share readers, the sum is off." : ""}`)),
    el("details", { open: flips.size < 4 }, el("summary", {}, "Verify: pin it in the model and compare again"),
      el("pre", {}, [...pins, "", `# then: torch-materialize compare ${data.target}`].join("\n")),
      copyButton(pins.join("\n"), pins.length > 1 ? "Copy the pins" : "Copy the pin")),
    el("button", { type: "button", class: "small", onclick: () => { flips.clear(); showFlips(); } }, "Turn all back"));
}

function startFlips() {
  for (const id of state.get("flips").split("~").filter(Boolean)) {
    const [, g, ...name] = id.split("/"), t = graphs[Number(g)]?.named.get(name.join("/"));
    if (t && t.ifStored !== null) flips.set(t.id, t);
  }
  showFlips();
}
