// The payload's rows with what all parts need of them.

const all = data.policies, priced = data.priced, first = all[0], chosen = all[priced];
const isFused = (kernel) => kernel.kind === "pointwise" || kernel.kind === "reduction";
const graphName = (g) => (data.graphs.length > 1 ? `graph ${g + 1}, ${data.graphs[g].kind}` : data.graphs[g].kind);

const graphs = data.graphs.map((graph, g) => {
  const tensors = graph.tensors.map((t, place) => Object.assign(t, {
    place, g, id: `t/${g}/${t.name}`, differs: new Set(t.stored).size > 1,
    text: [t.name, t.op, t.module, t.layer, t.source, t.type].join(" ").toLowerCase(),
  }));
  const kernels = Object.fromEntries(Object.entries(graph.kernels).map(([policy, list]) => [policy, list.map((k, place) => {
    const read = sum(k.reads, (r) => r[1]), written = sum(k.writes, (w) => w[1]);
    return Object.assign(k, {
      place, g, policy, id: `k/${g}/${policy}/${place}`, fused: isFused(k), read, written, bytes: read + written,
      text: [k.name, k.family, k.module, k.kind, k.function, ...k.reads.map((r) => r[0]), ...k.writes.map((w) => w[0])].join(" ").toLowerCase(),
    });
  })]));
  const named = new Map(tensors.map((t) => [t.name, t]));
  const pairs = graph.pairs.map(([one, other, changed, steps, family], n) => {
    const before = one.map((place) => kernels[first][place]), after = other.map((place) => kernels[chosen][place]);
    const kernel = after[0] ?? before[0];
    const files = kernel.computes.map((name) => named.get(name)?.source ?? "");
    return {
      n, g, id: `p/${g}/${n}`, before, after, changed: Boolean(changed), steps: steps < 0 ? null : graph.steps[steps],
      family, module: kernel.module, was: sum(before, (k) => k.bytes), is: sum(after, (k) => k.bytes),
      text: [...before.map((k) => k.text), ...after.map((k) => k.text), ...new Set(files)].join(" ").toLowerCase(),
    };
  });
  for (const pair of pairs) for (const kernel of [...pair.before, ...pair.after]) kernel.pair = pair;
  const groups = graph.groups.map(([names, stored, inlined]) => [names.map((name) => named.get(name)), stored, inlined]);
  const groupOf = new Map(groups.flatMap(([group]) => group.map((t) => [t, group])));
  return { ...graph, g, groups, groupOf, tensors, kernels, pairs, named, policies: Object.keys(kernels) };
});
const allPairs = graphs.flatMap((graph) => graph.pairs);

// The search field: each word has to be somewhere in a row.
const words = () => state.get("q").toLowerCase().split(/\s+/).filter(Boolean);
const matches = (text) => words().every((word) => text.includes(word));

function tensor(g, name) {
  return graphs[g].named.has(name) ? link(`t/${g}/${name}`, name, { class: "mono" }) : el("span", { class: "mono" }, name);
}
const commas = (parts) => parts.flatMap((part, n) => (n ? [", ", part] : [part]));
const nothing = (text, ...more) => el("p", { class: "empty" }, text, ...more);
const clearSearch = () => el("button", { type: "button", class: "small", onclick: () => { $("search").value = ""; state.set("q", ""); } }, "Clear the search");
