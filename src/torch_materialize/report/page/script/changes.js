// What the policy decides otherwise than stock: by line of the model's code, by module, by tensor.

const changed = data.changes.lines.flatMap((line, l) => line.modules.flatMap((module, m) => module.tensors.map(([g, name, saves, before, after]) => ({
  line, l, module, m, g, name, saves, before, after, t: graphs[g].named.get(name),
  text: `${line.source} ${line.text} ${module.module} ${module.layer} ${graphs[g].named.get(name)?.text ?? name}`.toLowerCase(),
}))));

function changeTree() {
  const shares = data.changes.shares;
  let most = 1;
  const node = (id, leaves, more) => ({ id, leaves, saves: sum(leaves, (leaf) => leaf.saves), ...more });
  const by = (leaves, key) => { const found = new Map(); for (const leaf of leaves) found.set(key(leaf), [...(found.get(key(leaf)) ?? []), leaf]); return [...found.values()]; };

  const tensorNode = (leaf) => node(`c${leaf.l}.${leaf.m}.${leaf.g}.${leaf.name}`, [leaf], {
    name: leaf.name,
    title: () => [tensor(leaf.g, leaf.name), " ", el("small", {}, `${leaf.t?.type ?? ""}${data.graphs.length > 1 ? ` · ${graphName(leaf.g)}` : ""}`)],
    whatIf: leaf.t && leaf.t.ifStored !== null ? () => flipSwitch(leaf.t) : undefined,
  });
  const moduleNode = (leaves) => {
    const { module, l, m } = leaves[0];
    return node(`c${l}.${m}`, leaves, {
      name: module.module, opensInSearch: false,
      title: () => [el("span", {}, module.module || "module unknown"), module.modules > 1 ? el("b", { class: "times" }, ` ×${module.modules}`) : "", " ", el("small", {}, module.layer)],
      children: () => leaves.map(tensorNode),
      whatIf: () => flipAlike(leaves.map((leaf) => leaf.t)),
    });
  };
  const lineNode = (leaves) => {
    const { line, l } = leaves[0];
    return node(`c${l}`, leaves, {
      name: line.source, opensInSearch: true,
      title: () => [el("span", { class: "source" }, line.source || "line unknown"), line.text ? mono(line.text) : ""],
      children: () => by(leaves, (leaf) => leaf.m).map(moduleNode),
    });
  };
  const states = (n) => [...new Set(n.leaves.map((leaf) => `${leaf.before} → ${leaf.after}`))].join(", ");
  const rounding = (n) => [...new Set(n.leaves.map((leaf) => leaf.t?.rounding).filter(Boolean))].join(", ") || "–";
  const shown = () => changed.filter((leaf) => matches(leaf.text));

  const tree = new Tree("changes-tree", {
    label: `What ${chosen} decides otherwise than ${first}`,
    columns: [
      { name: "Line, module, tensor", sort: (n) => n.name },
      { name: "Saves", num: true, style: "saves", sort: (n) => Math.abs(n.saves), bytes: (n) => n.saves, cell: (n) => (shares ? [change(n.saves, most), saved(n.saves)] : "unknown") },
      { name: "Tensors", num: true, style: "wide", sort: (n) => n.leaves.length, cell: (n) => number.format(n.leaves.length) },
      { name: `${first} → ${chosen}`, style: "wide ways", sort: states, cell: states },
      { name: "Rounds to", style: "wide wider", sort: rounding, cell: rounding },
      { name: "What if", style: "wide", cell: (n) => (n.whatIf ? n.whatIf() : "") },
    ],
    sortedBy: 1,
    build: () => {
      const roots = by(shown(), (leaf) => leaf.l).map(lineNode);
      most = Math.max(...roots.map((root) => Math.abs(root.saves)), Math.abs(data.changes.otherwise), 1);
      return roots;
    },
    foot: (roots) => {
      if (!shares) return [];
      const row = footRow(6);
      const here = sum(roots, (root) => root.saves), out = sum(changed, (leaf) => leaf.saves) - here, rest = data.changes.otherwise;
      return [
        out || roots.length < data.changes.lines.length ? row("not matched by the search", out, "left") : "",
        rest ? row(`${data.changes.rest}: no one tensor explains it`, rest, "otherwise") : "",
        row(`all that ${chosen} saves`, here + out + rest, "sum"),
      ].filter(Boolean);
    },
    empty: () => (changed.length ? nothing("No change matches the search. ", clearSearch())
      : nothing(chosen === first ? "There is no other policy here to hold this one against." : `${chosen} decides nothing otherwise than ${first} here: the code is the same.`)),
  });

  $("changes-csv").addEventListener("click", () => save("changes.csv", "text/csv", [csv([
    ["source", "line", "module", "layer", "graph", "tensor", "type", "bytes", "before", "after", "saves_bytes", "rounds_to"],
    ...shown().map((leaf) => [leaf.line.source, leaf.line.text, leaf.t?.module, leaf.module.layer, leaf.g + 1, leaf.name, leaf.t?.type, leaf.t?.bytes, leaf.before, leaf.after, shares ? leaf.saves : "", leaf.t?.rounding]),
    ...(data.changes.otherwise ? [["", "", "", "", "", data.changes.rest, "", "", "", "", data.changes.otherwise, ""]] : []),
  ])]));
  return tree;
}
