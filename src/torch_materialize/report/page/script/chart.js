// What each kernel moves, one after the other: a stock kernel and the plan's that does its work
// stand over one another.  Many kernels are not squeezed: the chart scrolls.

const chart = {
  start() {
    if (!allPairs.length) { $("growth").hidden = true; return; }
    this.host = $("chart");
    const families = new Map();
    for (const pair of allPairs) families.set(pair.family, [...(families.get(pair.family) ?? []), pair]);
    const worth = (pairs) => sum(pairs, (pair) => Math.abs(pair.was - pair.is));
    const sorted = [...families].sort((a, b) => worth(b[1]) - worth(a[1]) || b[1].length - a[1].length);
    const along = sorted.filter(([, pairs]) => pairs.length > 2 && worth(pairs));
    const start = (along[0] ?? sorted[0])[0];
    $("chart-family").append(...sorted.map(([name, pairs]) => el("option", { value: name, selected: name === start }, `${name} (${pairs.length})`)), el("option", { value: "*" }, `all kernels (${allPairs.length})`));
    // Of many kernels those that change first: in the order of launch they may be far to the right.
    if (families.get(start).length * 9 > this.host.clientWidth && worth(families.get(start))) $("chart-order").value = "change";
    for (const id of ["family", "what", "order"]) state.bind($(`chart-${id}`), `chart${id}`, () => this.render());
    tip.on(this.host, (target) => { const mark = target.closest("[data-n]"); return mark && { lines: this.lines(this.shown[Number(mark.dataset.n)]) }; });
    const open = (event) => { const mark = event.target.closest("[data-n]"); if (mark) { tip.hide(); kernelsView.show(this.shown[Number(mark.dataset.n)]); } };
    this.host.addEventListener("click", open);
    this.host.addEventListener("keydown", (event) => {
      const mark = event.target.closest("[data-n]"), way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!mark) return;
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(event); }
      if (way) { event.preventDefault(); this.host.querySelector(`[data-n="${Number(mark.dataset.n) + way}"]`)?.focus(); }
    });
    addEventListener("resize", () => { cancelAnimationFrame(this.frame); this.frame = requestAnimationFrame(() => this.render()); });
    this.render();
  },

  lines(pair) {
    const side = (name, kernels) => `${name}: ${kernels.length ? `kernel ${kernels.map((k) => k.place + 1).join(", ")} reads ${size(sum(kernels, (k) => k.read))}, writes ${size(sum(kernels, (k) => k.written))}` : "no kernel"}`;
    return [`${pair.module || pair.family}${data.graphs.length > 1 ? ` · ${graphName(pair.g)}` : ""}`, side(first, pair.before), chosen === first ? "" : side(chosen, pair.after), "Click or Enter: what changes in it"];
  },

  render() {
    const what = $("chart-what").value, family = $("chart-family").value;
    const amount = (kernels) => sum(kernels, (k) => (what === "read" ? k.read : k.bytes));
    this.shown = allPairs.filter((pair) => family === "*" || pair.family === family);
    if ($("chart-order").value === "change") this.shown = [...this.shown].sort((a, b) => Math.abs(b.was - b.is) - Math.abs(a.was - a.is));
    const points = this.shown.map((pair) => [amount(pair.before), amount(pair.after)]);
    const most = Math.max(...points.flat(), 1), unit = data.unit || 1;
    const left = 56, right = 14, top = 14, bottom = 30, height = 230;
    const room = Math.max(240, this.host.clientWidth) - left - right, step = Math.max(points.length > 1 ? room / points.length : room / 2, 9);
    const width = Math.max(room, step * points.length) + left + right;
    const ticks = this.ticks(most / unit), peak = ticks.at(-1) * unit;
    const x = (n) => left + (n + 0.5) * step, y = (value) => top + (1 - value / peak) * (height - top - bottom);
    const parts = ticks.flatMap((tick) => [draw("line", { class: "grid", x1: left, x2: width - right, y1: y(tick * unit), y2: y(tick * unit) }),
      draw("text", { class: "tick", x: left - 8, y: y(tick * unit) + 4, "text-anchor": "end" }, data.unit ? `${+tick.toPrecision(3)}` : size(tick))]);
    const paths = [[first, 0], [chosen, 1]].slice(0, chosen === first ? 1 : 2);
    if ($("chart-order").value !== "change" && points.length <= 140 && family !== "*") {
      for (const [, side] of paths) parts.push(draw("polyline", { class: `series side${side}`, points: points.map((p, n) => `${x(n).toFixed(1)},${y(p[side]).toFixed(1)}`).join(" ") }));
    }
    points.forEach((p, n) => {
      const marks = p[0] === p[1] || paths.length < 2 ? [] : [draw("line", { class: p[1] < p[0] ? "link less" : "link more", x1: x(n), x2: x(n), y1: y(p[0]), y2: y(p[1]) })];
      const label = this.lines(this.shown[n]).filter(Boolean).slice(0, 3).join("; ");
      parts.push(draw("g", { class: "mark", "data-n": n, tabindex: n ? "-1" : "0", role: "button", "aria-label": label },
        draw("rect", { class: "hit", x: x(n) - step / 2, width: step, y: top, height: height - top - bottom }), ...marks,
        ...paths.map(([, side]) => draw("circle", { class: `dot side${side}`, cx: x(n).toFixed(1), cy: y(p[side]).toFixed(1), r: step > 14 ? 4 : 3 }))));
    });
    const every = Math.max(1, Math.ceil(34 / step));
    points.forEach((_, n) => { if (n % every === 0) parts.push(draw("text", { class: "tick", x: x(n), y: height - 10, "text-anchor": "middle" }, (this.shown[n].after[0] ?? this.shown[n].before[0]).place + 1)); });
    const name = family === "*" ? "all fused kernels" : `${family} kernels`;
    this.host.replaceChildren(draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": `What ${name} ${what === "read" ? "read" : "move"}, one after the other` }, ...parts));
    $("chart-note").textContent = `${what === "read" ? "Read" : "Moved"} by each, ${data.unit ? `in activations of ${size(data.unit)}` : "in bytes"}; numbers are places in the launch order.${width > room + left + right + 1 ? " Scroll sideways for more." : ""}`;
  },

  ticks(most, wanted = 4) {
    const raw = most / wanted, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((s) => s * power).find((s) => s >= raw);
    return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, n) => n * step);
  },
};
