// The generated code of two kernels as one difference, pointers named by the tensors they are.

const CONTEXT = 3;

function codeOf(kernels) {
  const texts = kernels.map((k) => graphs[k.g].sources[k.policy]?.[k.function]);
  return texts.every(Boolean) && texts.length ? texts.join("\n\n").split("\n") : null;
}
// Pointer -> the tensors that it is before and after it is written.
const pointersOf = (kernels) => new Map([...kernels].reverse().flatMap((k) => k.arguments.map(([pointer, ...tensors]) => [pointer, tensors])));

// For each line what its pointers are; what names none, or defines them, has nothing.
function notes(lines, names) {
  const written = new Set();
  return lines.map((line) => {
    const found = [...new Set(line.match(/\b(?:in_out_ptr|in_ptr|out_ptr)\d+\b/g) ?? [])].filter((pointer) => names.has(pointer));
    if (/\bstore\(|ptr\d+\[[^=]*\]\s*=[^=]/.test(line)) for (const pointer of found) written.add(pointer);
    if (/^\s*(def |void |extern )/.test(line)) return "";
    return found.map((pointer) => `${pointer} = ${names.get(pointer)[Number(written.has(pointer))]}`).join(", ");
  });
}

function codeLine(sign, before, after, text, note) {
  return el("tr", { class: { "-": "gone", "+": "new", " ": "alike" }[sign] },
    el("td", { class: "line", "aria-hidden": "true" }, before), el("td", { class: "line", "aria-hidden": "true" }, after),
    el("td", { class: "sign" }, sign), el("td", { class: "text" }, text, note ? el("span", { class: "note-code" }, `  # ${note}`) : ""));
}

function difference(pair) {
  const one = codeOf(pair.before), other = codeOf(pair.after);
  const said = [notes(one, pointersOf(pair.before)), notes(other, pointersOf(pair.after))];
  const rows = [];
  for (const [n, [tag, i1, i2, j1, j2]] of pair.steps.entries()) {
    if (tag !== "equal") {
      for (let i = i1; i < i2; i++) rows.push(codeLine("-", i + 1, "", one[i], said[0][i]));
      for (let j = j1; j < j2; j++) rows.push(codeLine("+", "", j + 1, other[j], said[1][j]));
      continue;
    }
    const line = (k) => codeLine(" ", i1 + k + 1, j1 + k + 1, other[j1 + k], said[1][j1 + k]);
    const length = i2 - i1, head = n === 0 ? 0 : CONTEXT, tail = n === pair.steps.length - 1 ? 0 : CONTEXT;
    if (length <= head + tail + 2) { for (let k = 0; k < length; k++) rows.push(line(k)); continue; }
    for (let k = 0; k < head; k++) rows.push(line(k));
    const fold = el("tr", { class: "fold" }, el("td", { colspan: 4 }, el("button", { type: "button", class: "linkish",
      onclick: () => fold.replaceWith(...Array.from({ length: length - head - tail }, (_, k) => line(head + k))) }, `${length - head - tail} lines do the same`)));
    rows.push(fold);
    for (let k = length - tail; k < length; k++) rows.push(line(k));
  }
  const kinds = (sign) => sum(pair.steps, ([tag, i1, i2, j1, j2]) => (tag === "equal" ? 0 : sign === "-" ? i2 - i1 : j2 - j1));
  return el("div", { class: "diff" },
    el("p", { class: "sub" }, el("span", { class: "gone" }, `− ${first}`), " ", el("span", { class: "new" }, `+ ${chosen}`), ` · ${kinds("-")} lines go, ${kinds("+")} come. Lines that differ in the numbers of temporaries and pointers alone count as the same.`),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "difference of the generated code" }, el("table", { class: "code" }, el("tbody", {}, ...rows))));
}

function plainCode(kernels) {
  const lines = codeOf(kernels);
  if (!lines) return "";
  const said = notes(lines, pointersOf(kernels));
  return el("details", { class: "diff" }, el("summary", {}, `Generated code under ${kernels[0].policy}`),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "generated code" },
      el("table", { class: "code" }, el("tbody", {}, ...lines.map((text, n) => codeLine(" ", n + 1, "", text, said[n]))))));
}
