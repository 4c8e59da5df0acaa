// The module tree, as wide as what the fused kernels of each module move: stock above, the plan
// below, on one scale.  A click, or Enter, makes a module as wide as the page.

class Icicle {
  constructor(host) {
    this.host = host;
    this.sides = chosen === first ? [first] : [first, chosen];
    this.merge = $("icicle-merge");
    const layers = new Set(graphs.flatMap((graph) => graph.kernels[first].map((k) => k.module.match(/\d+/)?.[0])));
    this.merge.checked = state.get("layers", layers.size > 9 ? "merged" : "each") === "merged";
    this.merge.addEventListener("input", () => { state.set("layers", this.merge.checked ? "merged" : "each"); this.plant(); this.zoom(""); });
    state.on("q", () => this.render());
    addEventListener("resize", () => { cancelAnimationFrame(this.frame); this.frame = requestAnimationFrame(() => this.render()); });
    host.addEventListener("keydown", (event) => this.key(event));
    host.addEventListener("click", (event) => { const id = event.target.closest("[data-path]")?.dataset.path; if (id !== undefined) this.act(this.nodes.get(id)); });
    tip.on(host, (target) => { const cell = target.closest("[data-path]"); return cell && { lines: this.lines(this.nodes.get(cell.dataset.path)) }; });
    this.plant();
    this.at = this.nodes.has(state.get("zoom")) ? state.get("zoom") : "";
    this.render();
  }

  // The tree of both sides at once: bytes by side, children in the order of their first launch.
  plant() {
    const make = (id, name, parent) => ({ id, name, parent, level: parent ? parent.level + 1 : 0, bytes: this.sides.map(() => 0), kernels: this.sides.map(() => 0), children: new Map(), pairs: new Set(), text: "" });
    const root = make("", "all fused kernels");
    this.nodes = new Map([["", root]]);
    const child = (node, name, id = `${node.id}/${name}`) => {
      if (!node.children.has(name)) { const made = make(id, name, node); node.children.set(name, made); this.nodes.set(id, made); }
      return node.children.get(name);
    };
    for (const graph of graphs) for (const [s, policy] of this.sides.entries()) for (const kernel of graph.kernels[policy] ?? []) {
      if (!kernel.fused) continue;
      const number = (kernel.pair?.after[0] ?? kernel.pair?.before[0] ?? kernel).place + 1;
      const parts = (graphs.length > 1 ? [graphName(graph.g)] : []).concat(kernel.module ? kernel.module.split(".") : []);
      let node = root;
      const add = () => { node.bytes[s] += kernel.bytes; node.kernels[s] += 1; if (kernel.pair) node.pairs.add(kernel.pair); };
      add();
      for (const part of parts) { node = child(node, this.merge.checked && /^\d+$/.test(part) ? "*" : part); add(); }
      const leaf = this.merge.checked ? kernel.family : `${kernel.family} ${number}`;
      if (leaf !== node.name) { node = child(node, leaf); node.leaf = true; add(); }
      node.text += ` ${kernel.pair?.text ?? kernel.text}`;
    }
    // Layers by their numbers; the rest as they are launched.
    for (const node of this.nodes.values()) {
      const isNumber = ([name]) => /^\d+$/.test(name), children = [...node.children];
      node.children = new Map([...children.filter(isNumber).sort((a, b) => natural(a[0], b[0])), ...children.filter((child) => !isNumber(child))]);
    }
  }

  name(node) { return /^(\d+|\*)$/.test(node.name) && node.parent?.parent ? `${node.parent.name}.${node.name}` : node.name; }

  share(node) {
    const [was, is = was] = node.bytes;
    return was ? (is - was) / was : is ? 1 : 0;
  }

  lines(node) {
    const path = node.id.slice(1).replaceAll("/", ".") || node.name;
    const [was, is] = node.bytes;
    const total = this.nodes.get("").bytes;
    return [path, ...this.sides.map((side, s) => `${side}: ${size(node.bytes[s])} in ${count(node.kernels[s], "kernel")}, ${percent(node.bytes[s] / Math.max(total[s], 1))} of all`),
      is === undefined ? "" : was === is ? "moves the same" : `${size(Math.abs(was - is))} ${is < was ? "less" : "more"} under ${chosen}${was ? ` (${percent(Math.abs(is - was) / was)})` : ""}`,
      node.children.size ? "" : "Enter or click: its kernels"];
  }

  zoom(id) {
    this.at = id;
    state.set("zoom", id);
    this.render();
    this.host.querySelector(`[data-path="${CSS.escape(id)}"]`)?.focus({ preventScroll: true });
  }

  act(node) {
    tip.hide();
    const pairs = [...node.pairs];
    if (!node.children.size && pairs.length) return kernelsView.show(pairs.find((pair) => pair.changed) ?? pairs[0]);
    return this.zoom(node.id === this.at && node.parent ? node.parent.id : node.id);
  }

  key(event) {
    const cell = event.target.closest("[data-path]");
    if (!cell) return;
    const panel = cell.closest(".panel"), cells = [...panel.querySelectorAll("[data-path]")];
    const node = this.nodes.get(cell.dataset.path);
    const level = cells.filter((other) => this.nodes.get(other.dataset.path).level === node.level);
    const to = (other) => other?.focus();
    const find = (id) => cells.find((other) => other.dataset.path === id);
    const act = {
      ArrowRight: () => to(level[level.indexOf(cell) + 1]),
      ArrowLeft: () => to(level[level.indexOf(cell) - 1]),
      ArrowDown: () => to(cells.find((other) => this.nodes.get(other.dataset.path).parent === node)),
      ArrowUp: () => node.parent && to(find(node.parent.id)),
      Enter: () => this.act(node),
      " ": () => this.act(node),
      Escape: () => { const up = this.nodes.get(this.at).parent; if (up) this.zoom(up.id); },
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  render() {
    const at = this.nodes.get(this.at), most = Math.max(...at.bytes, 1);
    const trail = [];
    for (let node = at; node; node = node.parent) trail.unshift(node);
    $("icicle-trail").replaceChildren(...commasless(trail.map((node) => (node === at ? el("b", {}, this.name(node))
      : el("button", { type: "button", class: "linkish", onclick: () => this.zoom(node.id) }, this.name(node))))));
    const panels = this.sides.map((side, s) => {
      const cells = [];
      let depth = 0;
      const place = (node, left) => {
        const wide = node.bytes[s] / most, level = node.level - at.level;
        if (wide * this.host.clientWidth < 1.5) return;
        depth = Math.max(depth, level + 1);
        cells.push(this.cell(node, s, left, wide, level));
        let next = left;
        for (const child of node.children.values()) { place(child, next); next += child.bytes[s] / most; }
      };
      place(at, 0);
      return el("div", {}, el("div", { class: "panel-name" }, el("b", {}, side), ` ${size(at.bytes[s])} in ${count(at.kernels[s], "fused kernel")}`),
        cells.length ? el("div", { class: "panel", role: "tree", "aria-label": `modules under ${side}`, style: `height:${depth * 23}px` }, ...cells)
          : nothing(`${side} has no fused kernel here.`));
    });
    this.host.replaceChildren(...panels);
    for (const panel of this.host.querySelectorAll(".panel")) panel.querySelector("[data-path]")?.setAttribute("tabindex", "0");
  }

  cell(node, s, left, wide, level) {
    const share = this.share(node), way = Math.abs(share) < 0.0005 ? "same" : share < 0 ? "less" : "more";
    const strength = way === "same" ? 0 : 18 + 62 * Math.min(1, Math.sqrt(Math.abs(share)));
    const searched = words().length > 0, hit = searched && node.leaf !== undefined && matches(`${node.id} ${node.text}`.toLowerCase());
    const inside = searched && [...node.pairs].some((pair) => matches(pair.text));
    return el("div", { "data-path": node.id, "data-bytes": node.bytes[s], role: "treeitem", tabindex: "-1", "aria-level": node.level + 1, "aria-expanded": node.children.size ? "true" : undefined,
      "aria-label": this.lines(node).filter(Boolean).join("; "), class: `cell ${way}${searched && !hit && !inside ? " faint" : ""}`,
      style: `left:${(100 * left).toFixed(3)}%;width:${(100 * wide).toFixed(3)}%;top:${level * 23}px;--strength:${strength.toFixed(0)}%` },
    el("span", {}, this.name(node), el("small", {}, ` ${size(node.bytes[s])}`)));
  }
}
const commasless = (parts) => parts.flatMap((part, n) => (n ? [" › ", part] : [part]));
