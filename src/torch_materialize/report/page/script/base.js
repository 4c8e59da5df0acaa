// What every part uses: elements, sizes, copying, files to save, tooltips.

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const SVG = "http://www.w3.org/2000/svg";

function size(n) {
  let amount = Math.abs(n);
  const sign = n < 0 ? "−" : "";
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (amount < 999.5) return `${sign}${Number(amount.toPrecision(3))} ${unit}`;
    amount /= 1000;
  }
  return `${sign}${Number(amount.toPrecision(3))} TB`;
}
const saved = (n) => (n ? size(n) : "–");
const percent = (share) => `${(100 * share).toFixed(Math.abs(share) < 0.0995 ? 1 : 0)}%`;
const count = (n, noun) => `${number.format(n)} ${noun}${n === 1 ? "" : "s"}`;
const sum = (list, of = (x) => x) => list.reduce((total, one) => total + of(one), 0);
const natural = new Intl.Collator("en", { numeric: true }).compare;

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== "" && child !== false));
  return made;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const link = (id, text, attributes = {}) => el("a", { href: `#${id}`, ...attributes }, text);
const mono = (text) => el("code", {}, text);

async function copy(button, text) {
  const before = button.textContent;
  try { await navigator.clipboard.writeText(text); button.textContent = "copied"; } catch { window.prompt("Copy this line", text); }
  setTimeout(() => { button.textContent = before; }, 1200);
}
const copyButton = (text, name = "Copy") =>
  el("button", { type: "button", class: "small", "aria-label": `copy ${text}`, onclick: (event) => copy(event.currentTarget, text) }, name);

function save(name, kind, parts) {
  const anchor = el("a", { href: URL.createObjectURL(new Blob(parts, { type: kind })), download: name });
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
}
const csvCell = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
const csv = (rows) => `${rows.map((row) => row.map(csvCell).join(",")).join("\n")}\n`;

// Tooltips: one element, filled when the pointer or the focus comes to something that has one.
const tip = (() => {
  const box = el("div", { id: "tip", role: "tooltip", hidden: true });
  document.body.append(box);
  const hide = () => { box.hidden = true; };
  function show(lines, x, y) {
    box.replaceChildren(...lines.filter(Boolean).map((line, n) => el("div", { class: n ? undefined : "head" }, line)));
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    box.style.left = `${Math.max(6, Math.min(x + 14, innerWidth - width - 6))}px`;
    box.style.top = `${y + 18 + height > innerHeight ? Math.max(6, y - height - 12) : y + 18}px`;
  }
  // `find` maps an event's element to the one that has a tooltip and its lines, or to nothing.
  function on(host, find) {
    host.addEventListener("pointermove", (event) => {
      const found = find(event.target);
      found ? show(found.lines, event.clientX, event.clientY) : hide();
    });
    host.addEventListener("pointerleave", hide);
    host.addEventListener("focusin", (event) => {
      const found = event.target.matches(":focus-visible") && find(event.target);
      if (!found) return;
      const { left, bottom } = event.target.getBoundingClientRect();
      show(found.lines, left, bottom - 12);
    });
    host.addEventListener("focusout", hide);
  }
  addEventListener("scroll", hide, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  return { on, hide };
})();

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

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
  return JSON.parse(await new Response(gunzip(new Blob([bytes]))).text());
}
const gunzip = (blob) => blob.stream().pipeThrough(new DecompressionStream("gzip"));
