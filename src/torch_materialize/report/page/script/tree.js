// A table whose rows open to further rows, with the keys of a tree: up and down move, right opens,
// left closes or goes to the parent.  Long lists of children are shown in parts.

const PART = 60;

class Tree {
  // columns: {name, num, style, sort(node), cell(node)}; the first cell is the node's title.
  // build() gives the roots of what the search leaves, foot() the rows under them.
  constructor(id, { label, columns, build, foot, empty, sortedBy }) {
    Object.assign(this, { id, columns, build, foot, empty });
    this.opened = new Set(state.get(id).split("~").filter(Boolean));
    this.closed = new Set();
    this.parts = new Map();
    this.body = el("tbody");
    this.head = columns.map((column, n) => el("th", { scope: "col", class: this.style(column) },
      column.sort ? el("button", { type: "button", onclick: () => this.by(n) }, column.name) : column.name));
    this.table = el("table", { class: "tree", role: "treegrid", "aria-label": label },
      el("thead", {}, el("tr", {}, ...this.head)), this.body);
    this.host = $(id);
    this.host.replaceChildren(this.table);
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.sorted = { column: sortedBy, descending: true };
    state.on("q", () => { this.closed.clear(); this.update(); });
    this.update();
  }

  style(column) { return [column.num && "num", column.style].filter(Boolean).join(" ") || undefined; }

  by(n) {
    const again = this.sorted.column === n;
    this.sorted = { column: n, descending: again ? !this.sorted.descending : Boolean(this.columns[n].num) };
    this.update();
  }

  isOpen(node) {
    if (this.opened.has(node.id)) return true;
    return Boolean(words().length && node.opensInSearch && !this.closed.has(node.id));
  }

  toggle(node, open = !this.isOpen(node)) {
    open ? this.opened.add(node.id) : this.opened.delete(node.id);
    open ? this.closed.delete(node.id) : this.closed.add(node.id);
    const kept = [...this.opened].join("~");
    state.set(this.id, kept.length < 400 ? kept : "");
    this.update();
    this.focus(node.id);
  }

  order(nodes) {
    const { column, descending } = this.sorted, sort = this.columns[column].sort, way = descending ? -1 : 1;
    return nodes.map((node, place) => [sort(node), place, node]).sort((a, b) => {
      const order = typeof a[0] === "string" ? natural(a[0], b[0]) : a[0] - b[0];
      return way * order || a[1] - b[1];
    }).map((row) => row[2]);
  }

  update() {
    this.roots = this.build();
    this.head.forEach((th, n) => {
      if (n === this.sorted.column) th.setAttribute("aria-sort", this.sorted.descending ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    });
    const rows = [];
    this.shown = new Map();
    const add = (nodes, level, parent) => {
      const sorted = this.order(nodes), key = parent?.id ?? "";
      const most = this.parts.get(key) ?? PART;
      for (const node of sorted.slice(0, most)) {
        this.shown.set(node.id, { node, parent });
        rows.push(this.row(node, level));
        if (!this.isOpen(node)) continue;
        if (node.children) add(node.children(), level + 1, node);
        if (node.detail) rows.push(el("tr", { class: "detail" }, el("td", { colspan: this.columns.length }, ...node.detail())));
      }
      if (sorted.length > most) {
        rows.push(el("tr", { class: "more" }, el("td", { colspan: this.columns.length }, el("button", { type: "button", class: "small",
          onclick: () => { this.parts.set(key, most + 4 * PART); this.update(); } }, `${number.format(sorted.length - most)} more`))));
      }
    };
    add(this.roots, 1);
    this.body.replaceChildren(...rows, ...(this.roots.length && this.foot ? this.foot(this.roots) : []));
    this.body.querySelector("tr[data-id]")?.setAttribute("tabindex", "0");
    const left = this.host.querySelector(".empty");
    left?.remove();
    this.table.hidden = !this.roots.length;
    if (!this.roots.length) this.host.append(this.empty());
  }

  row(node, level) {
    const opens = Boolean(node.children || node.detail), open = opens && this.isOpen(node);
    return el("tr", { "data-id": node.id, role: "row", "aria-level": level, "aria-expanded": opens ? String(open) : undefined, tabindex: "-1",
      class: `level${level}${opens ? " opens" : ""}`,
      onclick: (event) => { if (opens && !event.target.closest("a, button, input, label")) this.toggle(node); } },
    ...this.columns.map((column, n) => (n === 0
      ? el("th", { scope: "row", role: "rowheader" }, el("div", { class: "first" }, el("span", { class: "twist", "aria-hidden": "true" }, opens ? (open ? "▾" : "▸") : ""), el("div", { class: "title" }, ...node.title())))
      : el("td", { role: "gridcell", class: this.style(column), "data-bytes": column.bytes?.(node) }, column.cell(node)))));
  }

  focus(id) {
    const row = this.body.querySelector(`tr[data-id="${CSS.escape(id)}"]`);
    if (!row) return false;
    this.body.querySelector('tr[tabindex="0"]')?.setAttribute("tabindex", "-1");
    row.setAttribute("tabindex", "0");
    row.focus({ preventScroll: true });
    const { top, bottom } = row.getBoundingClientRect();
    if (top < 110 || bottom > innerHeight) row.scrollIntoView({ block: "center" });
    return true;
  }

  key(event) {
    const row = event.target.closest("tr[data-id]");
    if (!row || event.target !== row) return;
    const { node, parent } = this.shown.get(row.dataset.id), ids = [...this.shown.keys()], at = ids.indexOf(node.id);
    const open = this.isOpen(node), opens = Boolean(node.children || node.detail);
    const act = {
      ArrowDown: () => this.focus(ids[at + 1] ?? node.id),
      ArrowUp: () => this.focus(ids[at - 1] ?? node.id),
      ArrowRight: () => (opens && !open ? this.toggle(node, true) : this.focus(ids[at + 1] ?? node.id)),
      ArrowLeft: () => (open ? this.toggle(node, false) : parent && this.focus(parent.id)),
      Home: () => this.focus(ids[0]),
      End: () => this.focus(ids.at(-1)),
      Enter: () => opens && this.toggle(node),
      " ": () => opens && this.toggle(node),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  // Opens what leads to a node, and the node; says whether there is one.
  show(path) {
    for (const id of path) this.opened.add(id);
    this.parts.set(path.at(-2) ?? "", 1e9);
    this.update();
    if (!this.focus(path.at(-1))) return false;
    const row = this.body.querySelector(`tr[data-id="${CSS.escape(path.at(-1))}"]`);
    row.classList.add("found");
    row.scrollIntoView({ block: "start" });
    return true;
  }
}

const footRow = (columns) => (words, amount, style) => el("tr", { class: `foot ${style}` },
  el("th", { scope: "row" }, el("div", { class: "first" }, el("span", { class: "twist" }), el("div", { class: "title" }, words))), el("td", { class: "num saves", "data-bytes": amount }, saved(amount)),
  ...Array.from({ length: columns - 3 }, () => el("td", { class: "wide" })), el("td", { class: "wide wider" }));

// How much is saved, or paid, beside the other rows.
function change(saves, most) {
  const share = most ? Math.min(1, Math.abs(saves) / most) : 0;
  return el("span", { class: "bar", "aria-hidden": "true" }, el("i", { class: saves < 0 ? "more" : "less", style: `width:${(100 * share).toFixed(1)}%` }));
}
