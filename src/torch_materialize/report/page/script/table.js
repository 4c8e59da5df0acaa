// A flat table with sorting, pages and rows that open: rows are made for one page at a time, so
// that thousands cost nothing until somebody looks at them.

const PAGE = matchMedia("(max-width: 640px)").matches ? 15 : 50;

class Table {
  constructor(prefix, label, columns, rows, detail) {
    Object.assign(this, { prefix, all: columns, columns: columns.filter((column) => column.cell), rows, detail, page: 0, opened: new Set(), found: [], sort: null });
    this.body = el("tbody");
    this.ths = this.columns.map((column) => el("th", { scope: "col", class: column.num ? "num" : undefined, title: column.title },
      column.key ? el("button", { type: "button", onclick: () => this.by(column) }, column.name) : column.name));
    $(`${prefix}-table`).replaceChildren(el("table", { class: "rows", "aria-label": label }, el("thead", {}, el("tr", {}, ...this.ths)), this.body));
    this.body.addEventListener("keydown", (event) => this.key(event));
    for (const id of ["show", "graph", "policy"]) {
      const control = $(`${prefix}-${id}`);
      if (control) state.bind(control, `${prefix}${id}`, () => { this.page = 0; this.update(); });
    }
    $(`${prefix}-csv`).addEventListener("click", () => this.save());
    state.on("q", () => { this.page = 0; this.update(); });
  }

  value(id) { return $(`${this.prefix}-${id}`)?.value ?? ""; }

  by(column) {
    const descending = this.sort && this.sort.column === column ? !this.sort.descending : Boolean(column.num);
    this.sort = { column, descending };
    this.page = 0;
    this.update();
  }

  select() {
    let found = this.rows().filter((row) => matches(row.text));
    if (this.sort) {
      const { column, descending } = this.sort, way = descending ? -1 : 1;
      found = found.map((row) => [column.key(row), row]).sort((a, b) =>
        a[0] < b[0] ? -way : a[0] > b[0] ? way : a[1].place - b[1].place).map((pair) => pair[1]);
    }
    this.found = found;
  }

  update() {
    this.select();
    this.columns.forEach((column, n) => {
      if (this.sort?.column === column) this.ths[n].setAttribute("aria-sort", this.sort.descending ? "descending" : "ascending");
      else this.ths[n].removeAttribute("aria-sort");
    });
    const pages = Math.max(1, Math.ceil(this.found.length / PAGE));
    this.page = Math.min(this.page, pages - 1);
    const rows = this.found.slice(this.page * PAGE, (this.page + 1) * PAGE);
    this.body.replaceChildren(...rows.flatMap((row) => this.line(row)));
    if (!rows.length) this.body.replaceChildren(el("tr", {}, el("td", { colspan: this.columns.length }, words().length ? nothing("Nothing here matches the search. ", clearSearch()) : nothing("Nothing to show here."))));
    $(`${this.prefix}-count`).textContent = `${number.format(this.found.length)} shown`;
    const turn = (by, name) => el("button", { type: "button", class: "small", disabled: this.page + by < 0 || this.page + by >= pages,
      onclick: () => { this.page += by; this.update(); } }, name);
    $(`${this.prefix}-pages`).replaceChildren(...(pages > 1 ? [turn(-1, "Previous"), `page ${this.page + 1} of ${pages}`, turn(1, "Next")] : []));
  }

  line(row) {
    const open = this.opened.has(row.id);
    const toggle = el("button", { type: "button", class: "open-row", "aria-expanded": String(open),
      onclick: () => { open ? this.opened.delete(row.id) : this.opened.add(row.id); this.update(); $(row.id)?.querySelector("button")?.focus(); } }, this.columns[0].cell(row));
    const cells = this.columns.map((column, place) => {
      if (place === 0) return el("th", { scope: "row" }, toggle);
      const content = column.cell(row), style = [column.num && "num", column.style, content === "–" && "none"].filter(Boolean).join(" ");
      return el("td", { "data-name": column.name, class: style || undefined, title: column.hint?.(row) }, content);
    });
    const lines = [el("tr", { id: row.id }, ...cells)];
    if (open) lines.push(el("tr", { class: "detail" }, el("td", { colspan: this.columns.length }, ...this.detail(row))));
    return lines;
  }

  key(event) {
    const button = event.target.closest(".open-row");
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!button || !way) return;
    event.preventDefault();
    const buttons = [...this.body.querySelectorAll(".open-row")];
    buttons[buttons.indexOf(button) + way]?.focus();
  }

  save() {
    const columns = this.all.filter((column) => column.value);
    save(`${this.prefix === "t" ? "tensors" : "kernels"}.csv`, "text/csv", [csv([
      columns.map((column) => column.name), ...this.found.map((row) => columns.map((column) => column.value(row)))])]);
  }

  show(row) {
    this.opened.add(row.id);
    this.select();
    if (!this.found.includes(row)) {
      $("search").value = "";
      state.set("q", "");
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
