// Starts all parts, and follows links to tensors, kernels and pairs.

for (const id of ["t-graph", "k-graph"]) $(id)?.append(...data.graphs.map((_, g) => el("option", { value: g }, graphName(g))));

// Of several graphs the one that changes most.
const changesIn = (g) => sum(graphs[g].pairs, (pair) => Math.abs(pair.was - pair.is));
const mostChanged = graphs.reduce((best, _, g) => (changesIn(g) > changesIn(best) ? g : best), 0);
for (const id of ["t-graph", "k-graph"]) if ($(id)) $(id).value = mostChanged;

const search = $("search");
search.value = state.get("q");
search.addEventListener("input", () => state.set("q", search.value.trim()));
addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, select, textarea")) { event.preventDefault(); search.focus(); }
});
const found = () => {
  const some = words().length > 0;
  $("search-count").textContent = some ? `${number.format(changed.filter((leaf) => matches(leaf.text)).length)} changes, ${number.format(sum(graphs, (graph) => graph.tensors.filter((t) => matches(t.text)).length))} tensors, ${number.format(allPairs.filter((pair) => matches(pair.text)).length)} kernels` : "";
};
state.on("q", found);
found();

const changes = changeTree();
kernelsView.start();
chart.start();
const icicle = new Icicle($("icicle"));
const tensors = tensorTable();
tensors.update();
startFlips();
measured.start();
$("perfetto-open").addEventListener("click", openPerfetto);
$("perfetto-save").addEventListener("click", () => save(`${data.target.replace(/[^\w.-]+/g, "_")}.perfetto.json`, "application/json", [JSON.stringify(timeline())]));
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button, button.dataset.copy));

function follow(place) {
  const [what, g, ...rest] = place.split("/");
  const graph = graphs[Number(g)];
  if (!graph || !["t", "k", "p"].includes(what)) { if (place) $(place)?.scrollIntoView(); return; }
  const select = $(`${what}-graph`);
  if (select) select.value = g;
  if (what === "t") {
    const row = graph.named.get(rest.join("/"));
    if (row) tensors.show(row);
  } else if (what === "k") {
    $("k-policy").value = rest[0];
    const row = graph.kernels[rest[0]]?.[Number(rest[1])];
    if (row) kernelsView.launch(row);
  } else if (graph.pairs[Number(rest[0])]) kernelsView.show(graph.pairs[Number(rest[0])]);
}
addEventListener("hashchange", () => follow(state.here()));
// A link to where the address is already changes nothing in it.
addEventListener("click", (event) => {
  const place = event.target.closest?.('a[href^="#"]')?.getAttribute("href").slice(1);
  if (place && place === state.here()) { event.preventDefault(); follow(place); }
});
follow(state.start);
// A sheet of paper has no buttons: lines open to their modules there.
addEventListener("beforeprint", () => { for (const root of changes.roots) changes.opened.add(root.id); changes.update(); });
document.documentElement.dataset.ready = "true";
