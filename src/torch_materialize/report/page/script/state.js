// What the page shows stands in its address: #PLACE?q=norm&zoom=…, so that a link or a bookmark
// opens the same view.  PLACE is a section, a tensor (t/graph/name), a kernel (k/graph/policy/n)
// or a pair of kernels (p/graph/n).

const state = (() => {
  const [place, query] = split(location.hash);
  const values = new URLSearchParams(query);
  const listeners = new Map();

  function split(hash) {
    const text = hash.slice(1), at = text.indexOf("?");
    return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
  }
  function write(where) {
    const text = values.toString();
    const hash = where || text ? `#${where}${text ? `?${text}` : ""}` : "";
    history.replaceState(null, "", hash || location.pathname + location.search);
  }
  const get = (name, otherwise = "") => values.get(name) ?? otherwise;
  function set(name, value) {
    if (get(name) === value) return;
    value ? values.set(name, value) : values.delete(name);
    write(decodeURIComponent(split(location.hash)[0]));
    for (const listen of listeners.get(name) ?? []) listen(value);
  }
  const on = (name, listen) => { listeners.set(name, [...(listeners.get(name) ?? []), listen]); };
  const here = () => decodeURIComponent(split(location.hash)[0]);

  // A control whose value stands in the address.
  function bind(control, name, changed) {
    const initial = control.value;
    if (values.has(name)) control.value = get(name);
    control.addEventListener("input", () => { set(name, control.value === initial ? "" : control.value); changed(); });
  }
  // A link in the page names a place alone: what else stood in the address stays there.
  addEventListener("hashchange", () => {
    const [where, text] = split(location.hash);
    for (const [name, value] of new URLSearchParams(text)) set(name, value);
    write(decodeURIComponent(where));
  });
  return { get, set, on, bind, here, start: decodeURIComponent(place) };
})();
