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

// All that are decided like these: one alone often changes nothing, since the others stand in for it.
function flipAlike(some) {
  const alike = [...new Set(some.filter((t) => t && t.ifStored !== null).flatMap((t) => graphs[t.g].groupOf.get(t) ?? [t]))];
  if (alike.length < 2) return "";
  const word = alike[0].stored[priced] ? "inline" : "store";
  return el("label", { class: "flip", title: `estimate what all kernels move with all ${alike.length} decided otherwise` },
    el("input", { type: "checkbox", role: "switch", "data-flips": alike.map((t) => t.id).join("~"), checked: alike.every((t) => flips.has(t.id)), "aria-label": `${word} all ${alike.length} tensors that are decided alike`,
      oninput: (event) => { for (const t of alike) event.target.checked ? flips.set(t.id, t) : flips.delete(t.id); showFlips(); } }),
    `${word} all ${alike.length}`);
}

// The decisions that are turned over: a group that is turned over as a whole has a price of its
// own, and so has one tensor alone.
function flipPrices() {
  const left = new Set(flips.values()), parts = [];
  for (const graph of graphs) for (const [group, stored, inlined] of graph.groups) {
    if (group.length < 2 || !group.every((t) => left.has(t))) continue;
    const now = group[0].stored[priced] ? stored : inlined, other = group[0].stored[priced] ? inlined : stored;
    parts.push(other - now);
    for (const t of group) left.delete(t);
  }
  for (const t of left) parts.push(otherwise(t));
  return parts;
}

function showFlips() {
  const kept = [...flips.keys()].join("~");
  state.set("flips", kept.length < 1500 ? kept : "");  // an address has its limits
  for (const box of document.querySelectorAll("[data-flip]")) box.checked = flips.has(box.dataset.flip);
  for (const box of document.querySelectorAll("[data-flips]")) box.checked = box.dataset.flips.split("~").every((id) => flips.has(id));
  const panel = $("whatif");
  panel.hidden = !flips.size;
  if (!flips.size) return;
  const parts = flipPrices(), extra = sum(parts);
  const total = sum(graphs.flatMap((graph) => graph.kernels[chosen]).filter((k) => k.fused), (k) => k.bytes);
  const pins = [...new Set([...flips.values()].map((t) => t.flip))];
  const change = extra ? `${extra < 0 ? "−" : "+"} ${size(Math.abs(extra))} = ${size(total + extra)}` : "and no change";
  panel.replaceChildren(
    el("div", {}, el("b", {}, `Estimate, not measured: ${size(total)} ${change}`),
      el("small", {}, ` with ${count(flips.size, "decision")} turned over; by the planner's model, everything else as ${chosen} has it.${
        parts.length > 1 ? " Each was priced alone: where they share readers, the sum is off." : ""}`)),
    el("details", { open: pins.length < 4 }, el("summary", {}, "Verify: pin it in the model and compare again"),
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
