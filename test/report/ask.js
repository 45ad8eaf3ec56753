(() => {
  "use strict";
  const root = document.documentElement;
  const visible = (e) => e.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true }) && e.getBoundingClientRect().width > 0;
  const parts = (c) => {
    const m = /rgba?\(([\d.]+), ([\d.]+), ([\d.]+)(?:, ([\d.]+))?\)/.exec(c);
    return m ? [+m[1], +m[2], +m[3], m[4] === undefined ? 1 : +m[4]] : null;
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ratio = (a, b) => {
    const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const behind = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const c = parts(getComputedStyle(at).backgroundColor);
      if (c && c[3] > 0.99) return c;
    }
    return [255, 255, 255, 1];
  };
  // A text of a picture lies on the shape before it in its group, where there is one; badges, dots and squares are.
  const under = (text) => {
    if (text.parentElement.tagName === "g" || text.classList.contains("mark")) {
      for (let at = text.previousElementSibling; at; at = at.previousElementSibling) {
        if (at.tagName !== "rect" && at.tagName !== "circle" || at.classList.contains("hatch") || at.classList.contains("client")) continue;
        const fill = parts(getComputedStyle(at).fill);
        if (fill && fill[3] > 0.99) return fill;
      }
    }
    return behind(text.closest("svg"));
  };
  const low = new Map();
  const check = (e, color, back) => {
    if (!color || !back) return;
    const r = ratio(color, back);
    if (r < 4.5) low.set(`${e.tagName.toLowerCase()}.${e.getAttribute("class") ?? ""} ${r.toFixed(2)}: ${e.textContent.trim().slice(0, 30)}`, r);
  };
  for (const e of document.querySelectorAll("body *")) {
    if (["SCRIPT", "STYLE", "title", "desc"].includes(e.tagName) || !visible(e)) continue;
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own) continue;
    const style = getComputedStyle(e);
    if (e.namespaceURI.endsWith("svg")) check(e, parts(style.fill), under(e));
    else check(e, parts(style.color), behind(e));
  }
  const clipped = [], hidden = [];
  let shown = 0;
  const width = root.clientWidth;
  for (const e of document.querySelectorAll("table, svg, dl, p")) {
    if (!visible(e)) continue;
    const box = e.getBoundingClientRect();
    if (box.right > width + 1 || box.left < -1) clipped.push(`${e.tagName.toLowerCase()} ${e.caption?.textContent ?? e.id ?? ""} by ${Math.round(box.right - width)} pixels`);
  }
  for (const e of document.querySelectorAll("table")) {
    if (visible(e)) shown++;
    else if (!e.closest(".onscreen")) hidden.push(e.caption?.textContent ?? "a table");
  }
  const counts = {};
  for (const s of ["h1", "svg[role=img]", "table", "table.sortable", "th button", "svg.map", "svg.map circle.node", "svg.map circle.silent", "svg.map .client",
    "svg.heat", "svg.heat g", "svg.heat .unknown", "svg.heat .hatch", "svg.cdf"]) counts[s] = document.querySelectorAll(s).length;
  return JSON.stringify({
    overflow: Math.max(0, root.scrollWidth - root.clientWidth), clipped, contrast: [...low.keys()].slice(0, 20),
    background: parts(getComputedStyle(document.body).backgroundColor)?.[3] ? getComputedStyle(document.body).backgroundColor : "rgb(255, 255, 255)",
    counts, hidden, shownTables: shown, headings: [...document.querySelectorAll("h1, h2, h3, h4")].filter(visible).map((h) => +h.tagName[1]),
  });
})()
