"use strict";
// Everything that comes from runs is put into the page as text (textContent), never as markup.
const $ = id => document.getElementById(id), SVG = "http://www.w3.org/2000/svg";
const OKABE = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c7a00", "#777777"];
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const dark = matchMedia("(prefers-color-scheme: dark)");
let data = null, paused = false, settings = { x: "tokens", logx: true, logy: true, lawy: "perplexity", law: "", text: "", state: "", sort: "state", down: false, run: "" };
try { Object.assign(settings, JSON.parse(sessionStorage.getItem("escala") || "{}")); } catch { /* a browser that keeps nothing */ }

function set(change) {
  Object.assign(settings, change);
  try { sessionStorage.setItem("escala", JSON.stringify(settings)); } catch { /* as above */ }
  draw();
}
function element(name, attributes = {}, text) {
  const node = ["svg", "path", "line", "text", "circle", "g", "clipPath", "rect", "defs"].includes(name) ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
// Numbers as people read them.
function count(value) {
  for (const [limit, suffix] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]]) if (value >= limit * .9995) return +(value / limit).toPrecision(3) + suffix;
  return String(+value.toPrecision(3));
}
const flops = value => value.toExponential(1).replace("e+", "e").replace(".0e", "e");
const number = value => value >= 1e5 || value < 1e-3 && value > 0 ? value.toExponential(1) : String(+value.toPrecision(4));
function duration(s) {
  s = Math.round(s);
  const two = n => String(n).padStart(2, "0");
  return s < 60 ? s + " s" : s < 3600 ? `${s / 60 | 0}m${two(s % 60)}s` : s < 86400 ? `${s / 3600 | 0}h${two((s % 3600) / 60 | 0)}m` : `${s / 86400 | 0}d${two((s % 86400) / 3600 | 0)}h`;
}
const key = run => (run.sweep || "") + "/" + run.name;
const shown = () => data.runs.filter(run => (!settings.state || run.state === settings.state) && key(run).toLowerCase().includes(settings.text.toLowerCase()));
// Colours: by size where sizes differ, else one after another.
function ramp(share) {
  const [from, to] = dark.matches ? [.3, 1] : [0, .88], at = (from + share * (to - from)) * 4, i = Math.min(3, at | 0);
  return `rgb(${VIRIDIS[i].map((v, c) => Math.round(v + (VIRIDIS[i + 1][c] - v) * (at - i))).join(",")})`;
}
function colours(runs) {
  const sizes = runs.map(run => run.params).filter(Boolean), low = Math.min(...sizes), high = Math.max(...sizes);
  const bySize = sizes.length && high > low;
  return { bySize, low, high, of: (run, i) => bySize ? run.params ? ramp(Math.log(run.params / low) / Math.log(high / low)) : "#888" : OKABE[i % OKABE.length] };
}
// Axes.
function ticks(low, high, log) {
  if (log) for (const parts of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7]]) {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) for (const p of parts) { const t = p * 10 ** e; if (t >= low * .999 && t <= high * 1.001) found.push(t); }
    if (found.length >= 3) return found.filter((_, i) => i % Math.ceil(found.length / 7) === 0);
  }
  const rough = (high - low) / 5 || 1, power = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].find(s => s * power >= rough) * power, found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step / 1e6; t += step) found.push(+t.toPrecision(12));
  return found;
}
function scale(low, high, from, to, log) {
  if (!(high > low)) { low = log ? low / 1.1 : low - .5; high = log ? high * 1.1 : high + .5; }
  const f = log ? Math.log : v => v, a = f(low), b = f(high);
  return Object.assign(v => from + (f(v) - a) / (b - a) * (to - from), { low, high, log });
}
function frame(figure, x, y, names, formats) { // draws axes, returns the layer for data
  const width = Math.max(280, figure.clientWidth), height = Math.round(Math.min(420, Math.max(260, width * .56)));
  const box = { left: 54, right: width - 12, top: 10, bottom: height - 40 };
  figure.querySelector("svg")?.remove();
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": figure.getAttribute("aria-label") });
  figure.prepend(svg);
  if (!x) { svg.append(element("text", { x: width / 2, y: height / 2, class: "none" }, names)); return null; }
  const sx = scale(x.low, x.high, box.left, box.right, x.log), sy = scale(y.low, y.high, box.bottom, box.top, y.log);
  const clip = figure.id + "-clip", defs = element("defs"), path = element("clipPath", { id: clip });
  path.append(element("rect", { x: box.left, y: box.top - 4, width: box.right - box.left + 4, height: box.bottom - box.top + 8 }));
  defs.append(path); svg.append(defs);
  for (const t of ticks(sx.low, sx.high, x.log)) {
    svg.append(element("line", { x1: sx(t), x2: sx(t), y1: box.top, y2: box.bottom, class: "grid" }), element("text", { x: sx(t), y: box.bottom + 16, "text-anchor": "middle" }, formats[0](t)));
  }
  for (const t of ticks(sy.low, sy.high, y.log)) {
    svg.append(element("line", { x1: box.left, x2: box.right, y1: sy(t), y2: sy(t), class: "grid" }), element("text", { x: box.left - 6, y: sy(t) + 4, "text-anchor": "end" }, formats[1](t)));
  }
  svg.append(element("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, class: "axis" }));
  svg.append(element("text", { x: (box.left + box.right) / 2, y: height - 5, "text-anchor": "middle" }, names[0]));
  svg.append(element("text", { x: 12, y: (box.top + box.bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(box.top + box.bottom) / 2})` }, names[1]));
  const layer = element("g", { "clip-path": `url(#${clip})` });
  svg.append(layer);
  return { svg, layer, sx, sy, width, height };
}
const quantile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
function extent(values, room, log) {
  const sorted = Float64Array.from(values).sort(), low = sorted[0], high = sorted.length > 400 ? Math.max(quantile(sorted, .995), low) : sorted[sorted.length - 1];
  return log ? { low: low / room, high: high * room, log } : { low: low - (high - low) * .04, high: high + (high - low) * .04, log };
}
// What is pointed at, by the pointer or by keys: a dot, a text.
function pointer(figure, points, texts, chosen) {
  let tip = figure.querySelector(".tip");
  if (!tip) { tip = element("div", { class: "tip", role: "status" }); figure.append(tip); }
  const dot = element("circle", { r: 5.5, class: "dot" }), svg = figure.querySelector("svg");
  svg.append(dot);
  const show = i => {
    tip.hidden = i < 0; dot.style.display = i < 0 ? "none" : "";
    if (i < 0) return chosen(-1);
    const [px, py] = points[i], width = svg.viewBox.baseVal.width;
    dot.setAttribute("cx", px); dot.setAttribute("cy", py);
    tip.textContent = texts(i);
    tip.style.left = px > width / 2 ? "auto" : px + 12 + "px"; tip.style.right = px > width / 2 ? width - px + 12 + "px" : "auto"; tip.style.top = Math.max(0, py - 12) + "px";
    chosen(i);
  };
  show(-1);
  figure.onpointermove = event => {
    figure.last = { clientX: event.clientX, clientY: event.clientY };
    const box = svg.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let near = -1, least = 30;
    points.forEach(([px, py], i) => { const d = Math.hypot(px - x, py - y); if (d < least) { least = d; near = i; } });
    show(near);
  };
  figure.onpointerleave = () => { figure.last = null; show(-1); };
  figure.onblur = () => show(-1);
  if (figure.last) figure.onpointermove(figure.last); // what was pointed at before news came
  return show;
}
function drawCurves() {
  const runs = shown(), tint = colours(runs), figure = $("curves"), useFlops = settings.x === "flops";
  const at = run => useFlops ? run.flops || NaN : 1, drawable = runs.filter(run => (run.tokens || []).length && at(run) > 0);
  const xs = [], ys = [];
  for (const run of drawable) run.tokens.forEach((t, i) => { if (t > 0) { xs.push(t * at(run)); ys.push(run.losses[i]); } });
  const low = xs.reduce((a, b) => Math.min(a, b), Infinity), high = xs.reduce((a, b) => Math.max(a, b), 0), logy = settings.logy && ys.every(y => y > 0);
  const view = xs.length ? frame(figure, { low: settings.logx ? low : 0, high, log: settings.logx }, extent(ys, 1.03, logy), [useFlops ? "training FLOPs" : "tokens", "training loss (nats per token)"], [useFlops ? flops : count, number]) : frame(figure, null, null, runs.length ? "no run has recorded a loss yet" : "no runs");
  $("scale").replaceChildren();
  if (tint.bySize) {
    const bar = element("span", { class: "ramp" });
    bar.style.background = `linear-gradient(90deg, ${[0, .25, .5, .75, 1].map(ramp).join(",")})`;
    $("scale").append("parameters " + count(tint.low), bar, count(tint.high));
  }
  figure.onkeydown = null;
  if (!view) return;
  const points = [], owner = [], paths = new Map();
  drawable.forEach(run => {
    const path = [];
    run.tokens.forEach((t, i) => {
      if (!(t > 0)) return;
      const x = view.sx(t * at(run)), y = view.sy(run.losses[i]);
      path.push((path.length ? "L" : "M") + x.toFixed(1) + "," + y.toFixed(1));
      points.push([x, y]); owner.push([run, i]);
    });
    const node = element("path", { d: path.join(""), class: "curve", stroke: tint.of(run, runs.indexOf(run)) });
    paths.set(run, node); view.layer.append(node);
  });
  const mark = run => {
    for (const [other, node] of paths) node.classList.toggle("picked", run ? other === run : key(other) === settings.run);
    view.layer.classList.toggle("picking", Boolean(run) || drawable.some(other => key(other) === settings.run));
  };
  const show = pointer(figure, points, i => {
    const [run, at_] = owner[i], t = run.tokens[at_];
    return `${run.name}\n${run.params ? count(run.params) + " parameters, " : ""}${count(t)} tokens${run.flops ? ", " + flops(t * run.flops) + " FLOPs" : ""}\nloss ${number(run.losses[at_])}, perplexity ${number(Math.exp(run.losses[at_]))}`;
  }, i => mark(i < 0 ? null : owner[i][0]));
  figure.onclick = () => { const run = [...paths].find(([, node]) => node.classList.contains("picked")); if (run) set({ run: key(run[0]) === settings.run ? "" : key(run[0]) }); };
  let index = -1;
  const last = run => owner.findLastIndex(([other]) => other === run);
  if (document.activeElement === figure && figure.kept) { index = owner.findLastIndex(([run]) => key(run) === figure.kept); show(index); }
  figure.onkeydown = event => {
    const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key], across = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (event.key === "Escape") { figure.kept = ""; return set({ run: "" }); }
    if (!along && !across) return;
    event.preventDefault();
    if (index < 0) index = 0;
    else if (along) index = Math.max(0, Math.min(points.length - 1, index + along));
    else {
      const next = drawable[(drawable.indexOf(owner[index][0]) + across + drawable.length) % drawable.length];
      index = last(next);
    }
    figure.kept = key(owner[index][0]);
    show(index);
  };
}
function drawLaw() {
  const laws = data.laws, figure = $("lawchart"), chosen = laws.find(law => law.sweep === settings.law) || laws[0];
  $("which-law").hidden = laws.length < 2;
  const names_ = laws.map(law => law.sweep).join("\n");
  if ($("law").dataset.names !== names_) { // an open list stays open while nothing changes
    $("law").replaceChildren(...laws.map(law => element("option", { value: law.sweep }, law.sweep)));
    $("law").dataset.names = names_;
  }
  if (chosen) $("law").value = chosen.sweep;
  $("lawkey").replaceChildren(); $("verdict").replaceChildren();
  figure.onkeydown = null;
  if (!chosen || !chosen.points.length) {
    frame(figure, null, null, !chosen ? "no sweep here has a ledger" : chosen.stale ? "being fitted" : "no finished cell yet");
    for (const line of chosen?.lines || []) $("verdict").append(element("p", {}, line));
    return;
  }
  const value = settings.lawy === "loss" ? v => v : v => Math.exp(Math.min(v, 700)), groups = [...new Set(chosen.points.map(p => p[3]))], names = chosen.curves.map(c => c.name);
  const tint = name => OKABE[(names.includes(name) ? names : groups).indexOf(name) % OKABE.length] || OKABE[7];
  const xs = [...chosen.points.map(p => p[0]), ...chosen.curves.flatMap(c => c.x)], measured = chosen.points.map(p => p[1]), fits = chosen.curves.flatMap(c => c.y), least = Math.min(...measured), most = Math.max(...measured);
  const ys = [...measured, ...fits.filter(v => v > least - 1.5 && v < most + 1.5)].map(value);
  const view = frame(figure, { low: Math.min(...xs) / 1.08, high: Math.max(...xs) * 1.08, log: true }, extent(ys, 1.06, true), ["parameters", settings.lawy === "loss" ? "held-out loss (nats per token)" : "held-out perplexity"], [count, number]);
  for (const curve of chosen.curves) {
    const at = (v, i) => `${view.sx(curve.x[i]).toFixed(1)},${view.sy(value(v)).toFixed(1)}`;
    if (curve.band.length) view.layer.append(element("path", { class: "band", fill: tint(curve.name), d: "M" + curve.band[0].map(at).join("L") + "L" + curve.band[1].map(at).reverse().join("L") + "Z" }));
    view.layer.append(element("path", { class: "fit", stroke: tint(curve.name), d: "M" + curve.y.map(at).join("L") }));
  }
  const points = chosen.points.map(p => [view.sx(p[0]), view.sy(value(p[1]))]);
  points.forEach(([cx, cy], i) => view.layer.append(element("circle", { cx, cy, r: 4.5, class: "cell", fill: tint(chosen.points[i][3]) })));
  const show = pointer(figure, points, i => { const [n, loss, name] = chosen.points[i]; return `${name}\n${count(n)} parameters\nloss ${number(loss)}, perplexity ${number(Math.exp(loss))}`; }, () => {});
  let index = -1;
  figure.onkeydown = event => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (step) { event.preventDefault(); index = (Math.max(index, step < 0 ? 0 : -1) + step + points.length) % points.length; show(index); }
  };
  for (const name of new Set([...names, ...groups])) {
    if (names.length + groups.length < 2) break;
    const spot = element("span", { class: "key" });
    spot.style.background = tint(name);
    $("lawkey").append(spot, name);
  }
  $("lawkey").append(element("div", {}, `${chosen.points.length} finished cells. ${chosen.counts ? chosen.counts + ". " : ""}${chosen.curves.some(c => c.band.length) ? "Bands: 95 %. " : ""}${chosen.stale ? "The ledger has grown since: being fitted anew." : ""}`));
  for (const line of chosen.lines) $("verdict").append(element("p", {}, line));
}
const COLUMNS = [
  ["run", run => run.name, key], ["state", run => run.state, run => data.states.indexOf(run.state)],
  ["step", run => run.step === undefined ? "" : count(run.step) + (run.steps ? " / " + count(run.steps) : ""), run => -run.step], ["loss", run => run.loss?.toFixed(4), run => run.loss],
  ["off", run => run.off === undefined ? "" : (run.off >= 0 ? "+" : "") + run.off.toFixed(1) + " σ", run => -Math.abs(run.off)],
  ["tokens/s", run => run.speed && count(run.speed), run => -run.speed], ["MFU", run => run.mfu === undefined ? "" : (100 * run.mfu).toFixed(1) + " %", run => -run.mfu],
  ["left", run => run.left === undefined ? "" : duration(run.left), run => run.left], ["parameters", run => run.params && count(run.params), run => -run.params],
  ...[["GPU-h", "gpu_seconds", 3600], ["core-h", "core_seconds", 3600], ["price", "cost", 1], ["kWh", "energy_joules", 3.6e6]].map(([name, from, unit]) =>
    [name, run => run[from] === undefined ? "" : unit === 1 ? run[from].toFixed(2) : number(run[from] / unit), run => -run[from]]),
];
function drawTable() {
  const runs = shown(), tint = colours(runs), order = new Map(runs.map((run, i) => [run, i]));
  const columns = COLUMNS.filter(([name, text]) => ["run", "state", "step", "loss"].includes(name) || data.runs.some(text));
  const value = (COLUMNS.find(([name]) => name === settings.sort) || COLUMNS[1])[2];
  const rank = run => { const v = value(run); return typeof v === "number" && !Number.isFinite(v) || v === undefined ? null : v; };
  const sorted = [...runs].sort((a, b) => {
    const [p, q] = [rank(a), rank(b)];
    if (p === null || q === null) return (p === null) - (q === null);
    return (p < q ? -1 : p > q ? 1 : order.get(a) - order.get(b)) * (settings.down ? -1 : 1);
  });
  $("heads").replaceChildren(...columns.map(([name]) => {
    const head = element("th", { scope: "col", ...(name === "state" ? { class: "left" } : {}), ...(name === settings.sort ? { "aria-sort": settings.down ? "descending" : "ascending" } : {}) });
    const button = element("button", { type: "button" }, name + (name === settings.sort ? settings.down ? " ▾" : " ▴" : ""));
    button.dataset.key = "head " + name;
    button.onclick = () => set({ sort: name, down: settings.sort === name && !settings.down });
    head.append(button);
    return head;
  }));
  $("rows").replaceChildren(...sorted.map(run => {
    const row = element("tr", { tabindex: "0", "aria-selected": key(run) === settings.run });
    row.dataset.key = key(run);
    for (const [name, text] of columns) {
      const cell = element("td", {}, text(run) ?? "");
      if (name === "run") { const swatch = element("span", { class: "swatch" }); swatch.style.background = tint.of(run, order.get(run)); cell.prepend(swatch); if (run.why) cell.append(element("div", { class: "why" }, run.why)); if (run.sweep) cell.title = key(run); }
      if (name === "state") cell.className = "left " + run.state;
      if (name === "off" && Math.abs(run.off) > 3) cell.className = "far";
      row.append(cell);
    }
    const pick = () => set({ run: key(run) === settings.run ? "" : key(run) });
    row.onclick = pick;
    row.onkeydown = event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(); } };
    return row;
  }));
}
function draw() {
  if (!data) return;
  const focused = document.activeElement?.dataset?.key;
  for (const id of ["x", "lawy"]) $(id).value = settings[id];
  for (const id of ["logx", "logy"]) $(id).checked = settings[id];
  $("summary").textContent = `${data.runs.length} run${data.runs.length === 1 ? "" : "s"}${data.cost ? "; " + data.cost : ""}`;
  const counts = state => data.runs.filter(run => run.state === state).length;
  $("states").replaceChildren(...["", ...data.states.filter(counts)].map(state => {
    const button = element("button", { type: "button", "aria-pressed": settings.state === state, class: state }, state ? `${counts(state)} ${state}` : "all");
    button.dataset.key = "state " + state;
    button.onclick = () => set({ state });
    return button;
  }));
  drawCurves(); drawLaw(); drawTable();
  if (focused) [...document.querySelectorAll("[data-key]")].find(node => node.dataset.key === focused)?.focus({ preventScroll: true });
}
function escala(news) { // called by the page with the first data, and by data.js with what came since
  const same = data && JSON.stringify({ ...data, time: 0 }) === JSON.stringify({ ...news, time: 0 });
  data = news;
  $("title").textContent = document.title = data.title;
  told("");
  if (!same) draw();
}
function told(trouble) {
  const at = new Date(data.time), old = (Date.now() - at) / 1000 > 3 * data.every + 10;
  $("news").textContent = `as of ${at.toLocaleString()}${trouble ? "; " + trouble : old ? "; nothing newer came since" : `; looks again every ${data.every} s`}`;
}
function look() {
  if (!paused && !document.hidden) {
    const script = element("script", { src: "data.js?" + Date.now() });
    script.onload = () => script.remove();
    script.onerror = () => { script.remove(); told("no news: the watch has ended, or this is a copy"); };
    document.head.append(script);
  }
  setTimeout(look, 1000 * (data?.every || 5));
}
for (const id of ["x", "lawy", "law"]) $(id).onchange = event => set({ [id]: event.target.value });
for (const id of ["logx", "logy"]) $(id).onchange = event => set({ [id]: event.target.checked });
$("find").value = settings.text;
$("find").oninput = event => set({ text: event.target.value });
$("pause").onclick = event => { paused = !paused; event.target.setAttribute("aria-pressed", paused); };
dark.addEventListener("change", draw);
let resized; addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(draw, 120); });
setTimeout(look, 3000);
