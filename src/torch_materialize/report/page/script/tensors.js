// The table of all tensors.

// What all kernels move more with one tensor decided otherwise, by the planner's model.
const otherwise = (t) => (t.ifStored === null ? null : t.stored[priced] ? t.ifInlined - t.ifStored : t.ifStored - t.ifInlined);

// A file's name with its line, which is what counts of it.
const brief = (name) => (name.length > 24 ? `${name.slice(0, 11)}…${name.slice(-12)}` : name);

function tensorTable() {
  const recomputed = (t) => (t.stored[priced] ? 0 : t.computers[priced].length);
  const marks = (t) => el("span", { class: "marks", "aria-label": all.filter((_, p) => t.stored[p]).join(", ") || "none" },
    ...all.map((policy, p) => el(t.stored[p] ? "b" : "i", { "aria-hidden": "true", title: `${policy}: ${t.stored[p] ? "stored" : "not stored"}` }, policy[0].toUpperCase())));
  const table = new Table("t", "Tensors", [
    { name: "Tensor", key: (t) => t.place, cell: (t) => t.name, value: (t) => t.name, title: "FX node; sorts by program order" },
    { name: "Where", key: (t) => t.source, cell: (t) => brief(t.source.split("/").pop()) || "–", value: (t) => t.source, hint: (t) => `${t.source} ${t.module}`, style: "where" },
    { name: "Type", key: (t) => t.type, cell: (t) => t.type, value: (t) => t.type, style: "mono" },
    { name: "Size", num: true, key: (t) => t.bytes, cell: (t) => size(t.bytes), value: (t) => t.bytes },
    { name: "Saves", num: true, key: (t) => (t.saves === null ? 0 : Math.abs(t.saves)), cell: (t) => (t.saves === null ? "–" : size(t.saves)), value: (t) => t.saves, title: `what ${chosen} saves by it against ${first}` },
    { name: "Stored by", key: (t) => t.stored.join(""), cell: marks, value: (t) => all.filter((_, p) => t.stored[p]).join(" "), title: all.map((p) => `${p[0].toUpperCase()} ${p}`).join(", ") },
    { name: "Recomputed", num: true, key: recomputed, cell: (t) => recomputed(t) || "–", value: recomputed, title: `kernels that compute it under ${chosen}` },
    { name: "If otherwise", num: true, key: (t) => otherwise(t) ?? -Infinity, cell: (t) => (otherwise(t) === null ? "–" : otherwise(t) ? `${otherwise(t) > 0 ? "+" : ""}${size(otherwise(t))}` : "same"),
      title: "estimate: what all kernels move more with this one tensor alone decided otherwise",
      hint: (t) => (otherwise(t) === null ? "not open" : `${size(t.ifStored)} in all if stored, ${size(t.ifInlined)} if inlined, estimated`) },
    { name: "If stored", value: (t) => t.ifStored },
    { name: "If inlined", value: (t) => t.ifInlined },
    { name: "Peak", num: true, key: (t) => t.peak, cell: (t) => (t.peak ? `${t.peak > 0 ? "+" : ""}${size(t.peak)}` : "–"), value: (t) => t.peak, title: "peak memory where it is stored" },
    { name: "Rounds to", key: (t) => t.rounding, cell: (t) => (t.rounding || "–") + (t.rounded ? " ●" : ""), value: (t) => t.rounding, title: "what it is rounded to where it is stored and not where it is inlined; ● its own kernel uses it rounded, too" },
    { name: "Rule", value: (t) => t.rules[priced] },  // of the CSV alone; a row that opens says it in words
    { name: "What if", cell: flipSwitch },
  ], () => graphs[Number(table.value("graph") || 0)].tensors.filter({ open: (t) => t.ifStored !== null, differs: (t) => t.differs, all: () => true }[table.value("show")]), (t) => [
    ...t.why.split("\n").map((sentence) => el("p", {}, sentence)),
    ...graphs[t.g].policies.map((policy, p) => el("p", {}, el("strong", {}, `${policy}: `), ...kernelLinks(t, policy, p))),
    t.pin ? el("div", { class: "pin" }, mono(t.pin), copyButton(t.pin)) : "",
  ]);
  const flip = (t) => (t.ifStored === null ? 0 : t.ifInlined - t.ifStored);
  // What differs first, then what it is worth.
  table.sort = { column: { key: (t) => (t.differs ? 1e18 : 0) + Math.abs(t.saves || 0) + Math.abs(flip(t)) / 1e3 + Math.abs(t.alone || 0) / 1e6 }, descending: true };
  return table;
}

function kernelLinks(t, policy, p) {
  const list = (name, places) => (places.length ? [` ${name} `, ...places.slice(0, 12).flatMap((k, n) => [n ? ", " : "", link(`k/${t.g}/${policy}/${k}`, `${k + 1}`)]), places.length > 12 ? ` and ${places.length - 12} more` : "", ";"] : []);
  const parts = [...list("written by kernel", t.writers[p]), ...list("computed in", t.computers[p]), ...list("read by", t.readers[p])];
  return parts.length ? parts : [" not in its kernels"];
}
