"use strict";
// Tables of tensors and kernels: rows are made for one page at a time, so that thousands cost
// nothing until somebody looks at them.
(async function () {
  const PAGE = 60;
  const $ = (id) => document.getElementById(id);
  theme();
  const data = await unpack($("data").textContent);
  const all = data.policies, priced = data.priced;
  const number = new Intl.NumberFormat("en");

  function size(n) {
    let amount = Math.abs(n);
    for (const unit of ["B", "kB", "MB", "GB"]) {
      if (amount < 999.5) return `${n < 0 ? "−" : ""}${Number(amount.toPrecision(3))} ${unit}`;
      amount /= 1000;
    }
    return `${n < 0 ? "−" : ""}${Number(amount.toPrecision(3))} TB`;
  }

  function el(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "onclick") made.addEventListener("click", value);
      else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== undefined && child !== ""));
    return made;
  }

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  function theme() {
    const root = document.documentElement, button = $("theme");
    const saved = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
    const dark = () => root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    if (saved) root.dataset.theme = saved;
    const show = () => { button.setAttribute("aria-pressed", dark()); };
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a file may have no storage */ }
      show();
    });
    show();
  }

  // A table with sorting, searching and pages.
  class Table {
    constructor(prefix, columns, rows, detail) {
      Object.assign(this, { prefix, columns, rows, detail, page: 0, opened: new Set(), found: [] });
      this.sort = null;
      this.body = document.querySelector(`#${prefix}-table tbody`);
      for (const id of ["search", "show", "graph", "policy"]) {
        const control = $(`${prefix}-${id}`);
        if (control) control.addEventListener("input", () => { this.page = 0; this.update(); });
      }
      this.head();
    }

    value(id) { const control = $(`${this.prefix}-${id}`); return control ? control.value : ""; }

    head() {
      const row = el("tr");
      for (const column of this.columns) {
        const th = el("th", { scope: "col", class: column.num ? "num" : undefined, title: column.title },
          column.key ? el("button", { type: "button", onclick: () => this.by(column) }, column.name) : column.name);
        column.th = th;
        row.append(th);
      }
      document.querySelector(`#${this.prefix}-table thead`).replaceChildren(row);
    }

    by(column) {
      const descending = this.sort && this.sort.column === column ? !this.sort.descending : Boolean(column.num);
      this.sort = { column, descending };
      for (const other of this.columns) other.th.removeAttribute("aria-sort");
      column.th.setAttribute("aria-sort", descending ? "descending" : "ascending");
      this.page = 0;
      this.update();
    }

    select() {
      const words = this.value("search").toLowerCase().split(/\s+/).filter(Boolean);
      let found = this.rows().filter((row) => words.every((word) => row.text.includes(word)));
      if (this.sort) {
        const { column, descending } = this.sort, way = descending ? -1 : 1;
        found = found.map((row) => [column.key(row), row]).sort((a, b) =>
          a[0] < b[0] ? -way : a[0] > b[0] ? way : a[1].place - b[1].place).map((pair) => pair[1]);
      }
      this.found = found;
    }

    update() {
      this.select();
      const pages = Math.max(1, Math.ceil(this.found.length / PAGE));
      this.page = Math.min(this.page, pages - 1);
      const rows = this.found.slice(this.page * PAGE, (this.page + 1) * PAGE);
      this.body.replaceChildren(...rows.flatMap((row) => this.line(row)));
      $(`${this.prefix}-count`).textContent = `${number.format(this.found.length)} shown`;
      const turn = (by, name) => el("button", { type: "button", disabled: this.page + by < 0 || this.page + by >= pages,
        onclick: () => { this.page += by; this.update(); } }, name);
      $(`${this.prefix}-pages`).replaceChildren(...(pages > 1 ? [turn(-1, "Previous"), `page ${this.page + 1} of ${pages}`, turn(1, "Next")] : []));
    }

    line(row) {
      const open = this.opened.has(row.id);
      const toggle = el("button", { type: "button", class: "open-row", "aria-expanded": String(open),
        onclick: () => { open ? this.opened.delete(row.id) : this.opened.add(row.id); this.update(); $(row.id)?.querySelector("button")?.focus(); } }, row.title);
      const cells = this.columns.map((column, place) => place === 0 ? el("th", { scope: "row" }, toggle)
        : el("td", { class: [column.num && "num", column.style].filter(Boolean).join(" ") || undefined, title: column.hint?.(row) }, column.cell(row)));
      const lines = [el("tr", { id: row.id }, ...cells)];
      if (open) lines.push(el("tr", { class: "detail" }, el("td", { colspan: this.columns.length }, ...this.detail(row))));
      return lines;
    }

    show(row) {
      const search = $(`${this.prefix}-search`);
      this.opened.add(row.id);
      this.select();
      if (!this.found.includes(row)) {
        search.value = "";
        $(`${this.prefix}-show`).value = "all";
        this.select();
      }
      this.page = Math.floor(this.found.indexOf(row) / PAGE);
      this.update();
      const line = $(row.id);
      line.classList.add("found");
      line.scrollIntoView({ block: "center" });
      line.querySelector("button").focus({ preventScroll: true });
    }
  }

  // Rows.
  const graphs = data.graphs.map((graph, g) => ({
    policies: Object.keys(graph.kernels),
    sources: graph.sources,
    tensors: graph.tensors.map((t, place) => Object.assign(t, { place, g, id: `t/${g}/${t.name}`, title: t.name,
      text: [t.name, t.op, t.module, t.layer, t.source, t.type].join(" ").toLowerCase(),
      differs: new Set(t.stored).size > 1 })),
    kernels: Object.fromEntries(Object.entries(graph.kernels).map(([policy, kernels]) => [policy, kernels.map((k, place) =>
      Object.assign(k, { place, g, policy, id: `k/${g}/${policy}/${place}`, title: `${place + 1}. ${k.family}`,
        fused: k.kind === "pointwise" || k.kind === "reduction",
        read: k.reads.reduce((sum, r) => sum + r[1], 0), written: k.writes.reduce((sum, w) => sum + w[1], 0),
        text: [k.name, k.family, k.kind, k.function, ...k.reads.map((r) => r[0]), ...k.writes.map((w) => w[0])].join(" ").toLowerCase() }))])),
  }));
  const now = () => graphs[Number($("t-graph")?.value || 0)];
  for (const id of ["t-graph", "k-graph"]) {
    $(id)?.append(...data.graphs.map((graph, g) => el("option", { value: g }, `${g + 1}: ${graph.kind}`)));
  }
  $("k-policy").append(...all.map((policy, p) => el("option", { value: policy, selected: p === priced }, policy)));

  const above = (one, other) => one === null ? "–" : one > other ? `+${size(one - other)}` : one === other ? "same" : "least";
  const flip = (t) => t.ifStored === null ? 0 : t.ifInlined - t.ifStored;
  const recomputed = (t) => t.stored[priced] ? 0 : t.computers[priced].length;
  const marks = (t) => el("span", { class: "marks", "aria-label": all.filter((_, p) => t.stored[p]).join(", ") || "none" },
    ...all.map((policy, p) => el(t.stored[p] ? "b" : "i", { "aria-hidden": "true", title: `${policy}: ${t.stored[p] ? "stored" : "not stored"}` }, policy[0].toUpperCase())));

  const tensors = new Table("t", [
    { name: "Tensor", key: (t) => t.place, title: "FX node; sorts by program order" },
    { name: "Where", key: (t) => t.source, cell: (t) => t.source.split("/").pop() || "–", hint: (t) => `${t.source} ${t.module}`, style: "where" },
    { name: "Type", key: (t) => t.type, cell: (t) => t.type, style: "mono" },
    { name: "Size", num: true, key: (t) => t.bytes, cell: (t) => size(t.bytes) },
    { name: "Stored by", key: (t) => t.stored.join(""), cell: marks, title: all.map((p) => `${p[0].toUpperCase()} ${p}`).join(", ") },
    { name: "Recomputed", num: true, key: recomputed, cell: (t) => recomputed(t) || "–", title: `kernels that compute it anew under ${all[priced]}` },
    { name: "If stored", num: true, key: (t) => t.ifStored === null ? -1 : t.ifStored - Math.min(t.ifStored, t.ifInlined), cell: (t) => above(t.ifStored, t.ifInlined), hint: (t) => t.ifStored === null ? "not open" : `${size(t.ifStored)} in all` },
    { name: "If inlined", num: true, key: (t) => t.ifInlined === null ? -1 : t.ifInlined - Math.min(t.ifStored, t.ifInlined), cell: (t) => above(t.ifInlined, t.ifStored), hint: (t) => t.ifInlined === null ? "not open" : `${size(t.ifInlined)} in all` },
    { name: "Saves", num: true, key: (t) => t.saves === null ? 0 : Math.abs(t.saves), cell: (t) => t.saves === null ? "–" : size(t.saves), title: `what ${all[priced]} saves by it against ${all[0]}` },
    { name: "Peak", num: true, key: (t) => t.peak, cell: (t) => t.peak ? `${t.peak > 0 ? "+" : ""}${size(t.peak)}` : "–", title: "peak memory where it is stored" },
    { name: "Rounding", key: (t) => t.rounding, cell: (t) => (t.rounding || "–") + (t.rounded ? " ●" : ""), title: "what it is rounded to where it is stored and not where it is inlined; ● its own kernel uses it rounded, too" },
    { name: "Rule", key: (t) => t.rules[priced], cell: (t) => t.rules[priced], hint: (t) => data.rules[t.rules[priced]] },
    { name: "Pin", cell: (t) => t.pin ? el("button", { type: "button", class: "small", title: t.pin, "aria-label": `copy ${t.pin}`, onclick: (event) => copy(event.target, t.pin) }, t.pin.split("(")[0].split(".").pop()) : "–" },
  ], () => now().tensors.filter({ open: (t) => t.ifStored !== null, differs: (t) => t.differs, all: () => true }[$("t-show").value]), (t) => [
    ...t.why.split("\n").map((sentence) => el("p", {}, sentence)),
    ...graphs[t.g].policies.map((policy, p) => el("p", {}, el("strong", {}, `${policy}: `), ...kernelLinks(t, policy, p))),
    t.pin ? el("div", { class: "pin" }, el("code", {}, t.pin), el("button", { type: "button", class: "small", onclick: (event) => copy(event.target, t.pin) }, "Copy")) : "",
  ]);

  function kernelLinks(t, policy, p) {
    const list = (name, places) => places.length ? [` ${name} `, ...places.slice(0, 12).flatMap((k, n) => [n ? ", " : "", link(`k/${t.g}/${policy}/${k}`, `${k + 1}`)]), places.length > 12 ? ` and ${places.length - 12} more` : "", ";"] : [];
    const parts = [...list("written by kernel", t.writers[p]), ...list("computed in", t.computers[p]), ...list("read by", t.readers[p])];
    return parts.length ? parts : [" not in its kernels"];
  }

  function link(id, text) { return el("a", { href: `#${id}` }, text); }

  async function copy(button, text) {
    const before = button.textContent;
    try { await navigator.clipboard.writeText(text); button.textContent = "copied"; } catch { window.prompt("Copy this line", text); }
    setTimeout(() => { button.textContent = before; }, 1200);
  }

  const kernels = new Table("k", [
    { name: "Kernel", key: (k) => k.place, title: "launch order and the layer that it works for" },
    { name: "Kind", key: (k) => k.kind, cell: (k) => k.kind },
    { name: "Inputs", num: true, key: (k) => k.reads.length, cell: (k) => k.reads.length },
    { name: "Read", num: true, key: (k) => k.read, cell: (k) => size(k.read) },
    { name: "Written", num: true, key: (k) => k.written, cell: (k) => size(k.written) },
    { name: "Computes", num: true, key: (k) => k.computes.length, cell: (k) => k.computes.length || "–", title: "tensors that it evaluates" },
    { name: "Ops a byte", num: true, key: (k) => k.work / Math.max(k.read + k.written, 1), cell: (k) => k.work ? (k.work / Math.max(k.read + k.written, 1)).toPrecision(2) : "–" },
    { name: "Writes", key: (k) => k.writes.map((w) => w[0]).join(), cell: (k) => k.writes.map((w) => w[0]).slice(0, 3).join(", ") || "–", style: "where" },
  ], () => {
    const graph = graphs[Number($("k-graph")?.value || 0)];
    const rows = graph.kernels[$("k-policy").value] || [];
    return $("k-show").value === "fused" ? rows.filter((k) => k.fused) : rows;
  }, (k) => {
    const names = (pairs) => el("ul", {}, ...pairs.map(([name, bytes]) => el("li", {}, tensor(k.g, name), ` ${size(bytes)}`)));
    const parts = [el("p", {}, el("strong", {}, "Reads")), names(k.reads), el("p", {}, el("strong", {}, "Writes")), names(k.writes)];
    if (k.computes.length) parts.push(el("p", {}, el("strong", {}, "Computes "), ...k.computes.flatMap((name, n) => [n ? ", " : "", tensor(k.g, name)])));
    return [...parts, ...codes(k)];
  });

  function tensor(g, name) {
    return graphs[g].tensors.some((t) => t.name === name) ? link(`t/${g}/${name}`, name) : el("span", { class: "mono" }, name);
  }

  // The kernel of another policy that writes one of the same tensors, or the same one in its family.
  function counterpart(k, policy) {
    const made = new Set(k.writes.map((w) => w[0])), others = graphs[k.g].kernels[policy];
    const same = others.filter((o) => o.fused && o.writes.some((w) => made.has(w[0])));
    if (same.length) return same[0];
    const mine = graphs[k.g].kernels[k.policy].filter((o) => o.family === k.family), theirs = others.filter((o) => o.family === k.family);
    return theirs[mine.indexOf(k)];
  }

  function codes(k) {
    const source = (one) => one && graphs[one.g].sources[one.policy]?.[one.function];
    if (!source(k)) return [];
    const others = graphs[k.g].policies.filter((policy) => policy !== k.policy && source(counterpart(k, policy)));
    const panel = (one) => el("div", {}, el("h4", {}, `${one.policy}: kernel ${one.place + 1}, ${one.function}`), el("pre", { tabindex: "0" }, source(one)));
    const place = el("div", { class: "codes" }, panel(k));
    if (!others.length) return [place];
    const choice = el("select", {}, ...others.map((policy) => el("option", { value: policy }, policy)));
    const update = () => place.replaceChildren(panel(k), panel(counterpart(k, choice.value)));
    choice.addEventListener("input", update);
    update();
    return [el("p", {}, el("label", {}, "Generated code beside that of ", choice)), place];
  }

  // Links between the tables are places in the page: #t/graph/tensor, #k/graph/policy/kernel.
  function follow() {
    const [what, g, ...rest] = decodeURIComponent(location.hash.slice(1)).split("/");
    const graph = graphs[Number(g)];
    if (!graph || (what !== "t" && what !== "k")) return;
    const select = $(`${what}-graph`);
    if (select) select.value = g;
    if (what === "t") {
      const row = graph.tensors.find((t) => t.name === rest.join("/"));
      if (row) tensors.show(row);
    } else {
      $("k-policy").value = rest[0];
      const row = graph.kernels[rest[0]]?.[Number(rest[1])];
      if (row) kernels.show(row);
    }
  }
  window.addEventListener("hashchange", follow);
  tensors.by(tensors.columns[6]);
  tensors.sort = { column: { key: (t) => (t.differs ? 1e18 : 0) + Math.abs(t.saves || 0) + Math.abs(flip(t)) / 1e3 + Math.abs(t.alone || 0) / 1e6 }, descending: true };
  tensors.columns[6].th.removeAttribute("aria-sort");
  tensors.update();
  kernels.update();
  follow();
  document.documentElement.dataset.ready = "true";
})().catch((error) => {
  const note = document.createElement("p");
  note.className = "note";
  note.textContent = `The tables cannot be shown in this browser (${error}). The record that this page was made from can be read with torch-materialize why RECORD TENSOR.`;
  document.getElementById("tensors").append(note);
});
