// Kernels: by family, each stock kernel beside the plan's that does its work; and all launches.

function buffers(g, pairs, others) {
  const elsewhere = new Map(others ?? []);
  return el("ul", { class: "buffers" }, ...pairs.map(([name, bytes]) => {
    const fresh = others && !elsewhere.has(name);
    return el("li", { class: fresh ? "fresh" : undefined }, tensor(g, name), " ", el("small", {}, size(bytes)));
  }));
}

// Both sides of a pair: what each reads and writes, and what only one of them does.
function sidesOf(pair) {
  const lists = (kernels, of) => kernels.flatMap((k) => of(k));
  const side = (kernels, others, name, word) => el("div", { class: `side ${word}` },
    el("h4", {}, name, kernels.length ? ` · ${kernels.map((k) => k.place + 1).join(", ")}` : " · no kernel", " ", el("small", {}, kernels.length ? size(sum(kernels, (k) => k.bytes)) : "its work is done elsewhere")),
    ...(kernels.length ? [el("h5", {}, "reads"), buffers(pair.g, lists(kernels, (k) => k.reads), lists(others, (k) => k.reads)),
      el("h5", {}, "writes"), buffers(pair.g, lists(kernels, (k) => k.writes), lists(others, (k) => k.writes))] : []),
    ...[...new Set(kernels.map((k) => k.function).filter(Boolean))].map((name) => el("p", { class: "function" }, mono(name))));
  return el("div", { class: "sides" }, side(pair.before, pair.after, first, "gone"), side(pair.after, pair.before, chosen, "new"));
}

function pairDetail(pair) {
  const code = pair.steps ? difference(pair) : [plainCode(pair.before), plainCode(pair.after)];
  const missing = !pair.steps && pair.changed && !codeOf(pair.after) ? el("p", { class: "sub" }, "The generated code is not in this record: ", mono("torch-materialize explain … --code"), " keeps it.") : "";
  const computes = new Set(pair.after.flatMap((k) => k.computes)), before = new Set(pair.before.flatMap((k) => k.computes));
  const again = [...before].filter((name) => !computes.has(name)), fresh = [...computes].filter((name) => !before.has(name));
  const list = (words, names) => (names.length ? el("p", {}, `${words} `, ...commas(names.slice(0, 24).map((name) => tensor(pair.g, name))), names.length > 24 ? ` and ${names.length - 24} more` : "") : "");
  return [sidesOf(pair), list(`Computed here under ${first} alone:`, again), list(`Computed here under ${chosen} alone:`, fresh), ...[code].flat(), missing,
    el("p", { class: "sub" }, ...commas([...pair.before, ...pair.after].map((k) => link(k.id, `${k.policy} kernel ${k.place + 1}`))), " in the list of launches")];
}

const kernelsView = {
  start() {
    let most = 1;
    const show = $("p-show");
    state.bind(show, "pairs", () => this.tree.update());
    const leaves = () => allPairs.filter((pair) => (show.value === "all" || pair.changed) && matches(pair.text));
    const node = (id, pairs, more) => ({ id, pairs, was: sum(pairs, (p) => p.was), is: sum(pairs, (p) => p.is), saves: sum(pairs, (p) => p.was - p.is), ...more });
    const numbers = (kernels) => kernels.map((k) => k.place + 1).join(", ") || "none";
    const pairNode = (pair) => node(pair.id, [pair], {
      name: pair.module || pair.family, place: pair.n,
      title: () => [el("span", {}, pair.module || pair.family), " ", el("small", {}, `${data.graphs.length > 1 ? `${graphName(pair.g)} · ` : ""}${first} ${numbers(pair.before)} → ${chosen} ${numbers(pair.after)}`)],
      detail: () => pairDetail(pair),
    });
    const familyNode = (pairs) => node(`f/${pairs[0].family}`, pairs, {
      name: pairs[0].family, opensInSearch: false,
      title: () => [el("span", {}, pairs[0].family), el("b", { class: "times" }, ` ×${pairs.length}`)],
      children: () => pairs.map(pairNode),
    });
    const kernels = (n, side) => sum(n.pairs, (p) => p[side].length);
    const reads = (n, side) => sum(n.pairs, (p) => sum(p[side], (k) => k.reads.length));
    const to = (a, b) => (a === b ? number.format(a) : `${number.format(a)} → ${number.format(b)}`);
    this.tree = new Tree("pairs-tree", {
      label: `Kernels of ${first} and of ${chosen}`,
      columns: [
        { name: "Family, kernel", sort: (n) => (n.place === undefined ? n.name : n.place) },
        { name: "Saves", num: true, style: "saves", sort: (n) => Math.abs(n.saves), bytes: (n) => n.saves, cell: (n) => [change(n.saves, most), saved(n.saves)] },
        { name: first, num: true, style: "wide", sort: (n) => n.was, cell: (n) => size(n.was) },
        { name: chosen, num: true, style: "wide", sort: (n) => n.is, cell: (n) => size(n.is) },
        { name: "Kernels", num: true, style: "wide", sort: (n) => kernels(n, "after") - kernels(n, "before"), cell: (n) => to(kernels(n, "before"), kernels(n, "after")) },
        { name: "Inputs", num: true, style: "wide wider", sort: (n) => reads(n, "before") - reads(n, "after"), cell: (n) => to(reads(n, "before"), reads(n, "after")) },
      ],
      sortedBy: 1,
      build: () => {
        const found = new Map();
        for (const pair of leaves()) found.set(pair.family, [...(found.get(pair.family) ?? []), pair]);
        const roots = [...found.values()].map(familyNode);
        most = Math.max(...roots.map((root) => Math.abs(root.saves)), 1);
        return roots;
      },
      foot: (roots) => {
        const shown = sum(roots, (root) => root.saves), total = sum(allPairs, (pair) => pair.was - pair.is), same = allPairs.filter((pair) => !pair.changed).length;
        const row = footRow(6);
        return [words().length && shown !== total ? row("not matched by the search", total - shown, "left") : "", show.value === "all" || !same ? "" : row(`${count(same, "kernel")} that ${same === 1 ? "does" : "do"} the same under both`, 0, "left"), row(`all that ${chosen} saves`, total, "sum")].filter(Boolean);
      },
      empty: () => (words().length ? nothing("No kernel here matches the search. ", clearSearch()) : nothing(chosen === first ? "There is no other policy here to hold this one against." : `All ${count(allPairs.length, "kernel")} of ${chosen} do what those of ${first} do.`)),
    });
    this.list = this.launches();
    this.launch = (kernel) => { $("launches").open = true; this.list.show(kernel); };
    this.list.update();
  },

  show(pair) {
    if ((!pair.changed && $("p-show").value !== "all") || !matches(pair.text)) {
      if (!pair.changed) { $("p-show").value = "all"; state.set("pairs", "all"); }
      if (!matches(pair.text)) { $("search").value = ""; state.set("q", ""); }
    }
    this.tree.show([`f/${pair.family}`, pair.id]);
  },

  launches() {
    $("k-policy").append(...all.map((policy, p) => el("option", { value: policy, selected: p === priced }, policy)));
    const table = new Table("k", "Launches", [
      { name: "Kernel", key: (k) => k.place, cell: (k) => `${k.place + 1}. ${k.family}`, value: (k) => k.name, title: "launch order and the layer that it works for" },
      { name: "Module", key: (k) => k.module, cell: (k) => k.module || "–", value: (k) => k.module, style: "where" },
      { name: "Kind", key: (k) => k.kind, cell: (k) => k.kind, value: (k) => k.kind },
      { name: "Inputs", num: true, key: (k) => k.reads.length, cell: (k) => k.reads.length, value: (k) => k.reads.length },
      { name: "Read", num: true, key: (k) => k.read, cell: (k) => size(k.read), value: (k) => k.read },
      { name: "Written", num: true, key: (k) => k.written, cell: (k) => size(k.written), value: (k) => k.written },
      { name: "Computes", num: true, key: (k) => k.computes.length, cell: (k) => k.computes.length || "–", value: (k) => k.computes.length, title: "tensors that it evaluates" },
      { name: "Operations a byte", num: true, key: (k) => k.work / Math.max(k.bytes, 1), cell: (k) => (k.work ? (k.work / Math.max(k.bytes, 1)).toPrecision(2) : "–"), value: (k) => k.work },
      { name: "Writes", key: (k) => k.writes.map((w) => w[0]).join(), cell: (k) => k.writes.map((w) => w[0]).slice(0, 3).join(", ") || "–", value: (k) => k.writes.map((w) => w[0]).join(" "), style: "where" },
      { name: "Function", value: (k) => k.function, cell: (k) => k.function || "–", key: (k) => k.function, hint: (k) => k.function, style: "where" },
    ], () => {
      const rows = graphs[Number(table.value("graph") || 0)].kernels[table.value("policy")] ?? [];
      return table.value("show") === "fused" ? rows.filter((k) => k.fused) : rows;
    }, (k) => [
      el("div", { class: "sides" }, el("div", { class: "side" }, el("h5", {}, "reads"), buffers(k.g, k.reads)), el("div", { class: "side" }, el("h5", {}, "writes"), buffers(k.g, k.writes))),
      k.computes.length ? el("p", {}, el("strong", {}, "Computes "), ...commas(k.computes.map((name) => tensor(k.g, name)))) : "",
      k.pair ? el("p", {}, link(k.pair.id, k.pair.changed ? "What changes in it" : "Its counterpart, which does the same")) : "",
      plainCode([k]),
    ]);
    return table;
  },
};
