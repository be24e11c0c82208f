// What a live page does in the browser: takes panels from the kernel and changes only what differs, draws figures, asks before it acts.
// Loaded twice: by the page's shell (figures of the snapshot) and as the widget's module (it comes through the kernel, so it works in JupyterLab too).

const LIGHTER = { "#0072b2": "#56b4e9", "#e69f00": "#f0b429", "#009e73": "#2bc79b", "#d55e00": "#ff8a4c", "#cc79a7": "#e3a1c6", "#56b4e9": "#9ad3f5", "#f0e442": "#f5ec7a", "#7a8599": "#a3adbd" };
const drawn = new WeakMap();
let library = null;

function script(url) {
  return new Promise((done, failed) => {
    const tag = document.createElement("script");
    Object.assign(tag, { src: url, onload: () => done(window.Plotly), onerror: () => failed(new Error("the plotting library could not be loaded")) });
    document.head.append(tag);
  });
}

function plotly(fetchIt) {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  const named = document.querySelector("meta[name=gt-plotly]");
  library ??= named ? script(named.content) : fetchIt ? fetchIt() : Promise.reject(new Error("no plotting library"));
  return library;
}

function isDark(element) {
  const parts = getComputedStyle(element).backgroundColor.match(/[\d.]+/g) || [255, 255, 255];
  return 0.299 * parts[0] + 0.587 * parts[1] + 0.114 * parts[2] < 128;
}

function themed(spec, figure) {
  const panel = figure.closest(".gt-panel") || figure, look = getComputedStyle(panel), dark = isDark(panel);
  let text = JSON.stringify(spec);
  if (dark) text = text.replace(/#[0-9a-f]{6}\b/gi, c => LIGHTER[c.toLowerCase()] || c);
  const { data = [], layout = {} } = JSON.parse(text), ink = getComputedStyle(figure.querySelector("figcaption") || figure).color, grid = look.borderTopColor;
  const axes = new Set(["xaxis", "yaxis", ...Object.keys(layout).filter(k => /^[xy]axis\d*$/.test(k))]);
  for (const name of axes) layout[name] = { gridcolor: grid, linecolor: grid, zerolinecolor: grid, automargin: true, ...layout[name] };
  Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, height: undefined, width: undefined });
  layout.font = { family: "system-ui, sans-serif", size: 12, ...layout.font, color: ink };
  layout.margin = { l: 56, r: 16, t: layout.title && layout.title.text ? 44 : 14, b: 40, ...layout.margin };
  layout.legend = { orientation: "h", y: -0.16, yanchor: "top", x: 0, bgcolor: "rgba(0,0,0,0)", ...layout.legend };
  layout.hoverlabel = { bgcolor: look.backgroundColor, bordercolor: grid, font: { color: look.color }, ...layout.hoverlabel };
  if (layout.title) layout.title = { x: 0, xref: "paper", xanchor: "left", font: { size: 14 }, ...layout.title };
  return { data, layout };
}

export async function figures(root, { again = false, fetchIt = null } = {}) {
  const found = [...root.querySelectorAll(".gt-figure")].filter(f => again || drawn.get(f) !== f.querySelector(".gt-spec").textContent);
  if (!found.length) return;
  const Plotly = await plotly(fetchIt);
  for (const figure of found) {
    const text = figure.querySelector(".gt-spec").textContent, { data, layout } = themed(JSON.parse(text), figure);
    drawn.set(figure, text);
    await Plotly.react(figure.querySelector(".gt-plot"), data, layout, { responsive: true, displayModeBar: false, displaylogo: false });
    figure.dataset.drawn = "yes";
  }
}

// ---------------------------------------------------------------- changing only what differs
function keyOf(node) {
  if (node.nodeType !== 1) return null;
  const d = node.dataset;
  for (const k of ["panel", "row", "cell", "tile", "action", "key", "table"]) if (d[k]) return `${k}:${d[k]}`;
  return node.id || null;
}

export function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return void old.replaceWith(fresh.cloneNode(true));
  if (old.nodeType !== 1) { if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue; return; }
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes])
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS") && name !== "data-drawn") old.removeAttribute(name);
  if (old.classList.contains("gt-plot") && old.parentElement.dataset.drawn) return;
  const keyed = new Map();
  for (const child of old.childNodes) { const k = keyOf(child); if (k) keyed.set(k, child); }
  let at = old.firstChild;
  for (const want of [...fresh.childNodes]) {
    const key = keyOf(want), match = key ? keyed.get(key) : at && !keyOf(at) && at.nodeName === want.nodeName ? at : null;
    if (!match) { old.insertBefore(want.cloneNode(true), at); continue; }
    if (match === at) at = at.nextSibling; else old.insertBefore(match, at);
    if (key) keyed.delete(key);
    morph(match, want);
  }
  while (at) { const next = at.nextSibling; at.remove(); at = next; }
}

function enable(root, live) {
  for (const button of root.querySelectorAll("button.gt-act")) {
    const why = button.dataset.disabled || (live ? "" : "Only on a live page");
    button.disabled = Boolean(why);
    if (why) button.title = why; else button.removeAttribute("title");
  }
}

// ---------------------------------------------------------------- finding rows
function find(box) {
  const words = box.value.trim().toLowerCase().split(/\s+/).filter(Boolean), table = box.closest(".gt-table");
  for (const row of table.querySelectorAll("tbody tr")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(w => text.includes(w));
  }
  const more = table.querySelector(":scope > details");
  if (more && words.length) more.open = true;
}

function put(root, panel) {
  const box = document.createElement("template");
  box.innerHTML = panel.html;
  const fresh = box.content.firstElementChild, old = root.querySelector(`:scope > [data-panel="${CSS.escape(panel.name)}"]`);
  enable(fresh, true);
  if (!old) return void root.append(fresh);
  const focus = document.activeElement, held = old.contains(focus) ? focus.closest("[data-action]")?.dataset.action : null;
  const looked = [...old.querySelectorAll(".gt-search")].map(e => e.value);
  morph(old, fresh);
  old.querySelectorAll(".gt-search").forEach((e, i) => { if (looked[i]) { e.value = looked[i]; find(e); } });
  if (held && document.activeElement !== focus) old.querySelector(`[data-action="${CSS.escape(held)}"]`)?.focus();
}

// ---------------------------------------------------------------- acts
const make = (tag, props = {}, ...children) => { const e = Object.assign(document.createElement(tag), props); e.append(...children); return e; };

function input(field, n) {
  const id = `gt-field-${n}`, kinds = { int: "number", float: "number", bool: "checkbox", date: "date", time: "datetime-local" };
  let entry;
  if (field.kind === "choice") {
    entry = make("select", { id });
    for (const c of field.choices) entry.append(make("option", { value: c, textContent: c || "–", selected: c === String(field.value ?? "") }));
  } else if (field.kind === "long") entry = make("textarea", { id, rows: 3, value: field.value ?? "" });
  else {
    entry = make("input", { id, type: kinds[field.kind] || "text" });
    if (field.kind === "bool") entry.checked = Boolean(field.value);
    else entry.value = Array.isArray(field.value) ? field.value.join(", ") : field.kind === "time" ? String(field.value ?? "").slice(0, 16) : field.value ?? "";
    if (field.kind === "int") entry.step = "1"; else if (field.kind === "float") entry.step = "any";
  }
  entry.required = field.required && field.kind !== "bool";
  entry.dataset.field = field.name;
  const label = make("label", { htmlFor: id, textContent: field.label + (field.required ? " (needed)" : "") });
  const help = field.help || (field.kind === "list" ? "Several, with commas between them" : field.kind === "time" ? "UTC" : "");
  const row = make("div", { className: `gt-field gt-field-${field.kind}` }, label, entry);
  const wrong = make("small", { id: `${id}-wrong`, className: "gt-wrong" });
  wrong.dataset.fieldError = field.name;
  if (help) row.append(make("small", { id: `${id}-help`, textContent: help }));
  row.append(wrong);
  entry.setAttribute("aria-describedby", help ? `${id}-help ${id}-wrong` : `${id}-wrong`);
  return row;
}

function mark(dialog, wrong = {}) {
  for (const entry of dialog.querySelectorAll("[data-field]")) {
    const said = wrong[entry.dataset.field] || "";
    dialog.querySelector(`[data-field-error="${CSS.escape(entry.dataset.field)}"]`).textContent = said;
    if (said) entry.setAttribute("aria-invalid", "true"); else entry.removeAttribute("aria-invalid");
  }
  dialog.querySelector("[aria-invalid]")?.focus();
}

function values(dialog) {
  return Object.fromEntries([...dialog.querySelectorAll("[data-field]")].map(e => [e.dataset.field, e.type === "checkbox" ? e.checked : e.value]));
}

async function act(call, panel, action, button) {
  const told = await call({ type: "offer", panel, action });
  const title = make("h2", { id: "gt-dialog-title", textContent: told.label || "This cannot be done now" });
  const says = make("p", { textContent: told.says || told.text }), plan = make("div", { className: "gt-plan" }), result = make("div", { className: "gt-result" });
  result.setAttribute("role", "status");
  const confirm = make("button", { type: "submit", className: `gt-button gt-primary${told.danger ? " gt-danger" : ""}`, textContent: told.plan ? "Show what it would do" : "Confirm" });
  const cancel = make("button", { type: "button", className: "gt-button", textContent: told.ok ? "Cancel" : "Close" });
  const who = make("p", { className: "gt-who", textContent: told.ok ? `Done by ${told.person}, and recorded in the journal.` : "" });
  const form = make("form", { method: "dialog" }, title, says, ...(told.fields || []).map(input), plan, who, result, make("div", { className: "gt-buttons" }, ...(told.ok ? [confirm] : []), cancel));
  const dialog = make("dialog", { className: "gt-dialog" }, form);
  dialog.setAttribute("aria-labelledby", "gt-dialog-title");
  let planned = !told.plan;
  cancel.onclick = () => dialog.close();
  dialog.onclose = () => {
    dialog.remove();
    const again = button.isConnected ? button : document.querySelector(`[data-panel="${CSS.escape(panel)}"] [data-action="${CSS.escape(action)}"]`);
    (again && !again.disabled ? again : document.getElementById(`gt-${panel}`))?.focus();
  };
  form.oninput = () => { if (told.plan && planned) { planned = false; plan.replaceChildren(); confirm.textContent = "Show what it would do"; } };
  form.onsubmit = async event => {
    event.preventDefault();
    const asked = { panel, action, values: values(dialog) };
    confirm.disabled = true;
    result.className = "gt-result gt-busy";
    result.textContent = planned ? "Working …" : "Looking …";
    const reply = await call({ type: planned ? "do" : "plan", ...asked }, text => { result.textContent = text; });
    confirm.disabled = false;
    result.className = `gt-result gt-is-${reply.status || (reply.ok ? "ok" : "critical")}`;
    mark(dialog, reply.fields);
    const known = Object.keys(reply.fields || {}), unseen = known.filter(k => !dialog.querySelector(`[data-field="${CSS.escape(k)}"]`));
    result.textContent = known.length && !unseen.length ? "Look at the marked fields." : reply.text || "";
    if (!reply.ok) return;
    if (!planned) {
      planned = true;
      plan.replaceChildren(make("p", { textContent: "It will:" }), make("ul", {}, ...reply.steps.map(s => make("li", { textContent: s }))));
      confirm.textContent = "Confirm";
      return;
    }
    confirm.remove();
    cancel.textContent = "Close";
    if (reply.href) result.append(" ", make("a", { href: reply.href, textContent: reply.link || "Open", target: "_blank", rel: "noopener" }));
    cancel.focus();
  };
  document.body.append(dialog);
  dialog.showModal();
}

// ---------------------------------------------------------------- the widget
function render({ model, el }) {
  const shell = document.querySelector("[data-gt-panels]");
  const root = shell || make("div", { className: "gt-live" });
  if (!shell) el.append(make("style", { textContent: model.get("css") }), root);
  const waiting = new Map();
  let number = 0;
  const tell = detail => document.dispatchEvent(new CustomEvent("gt-live", { detail }));
  const call = (message, progress) => new Promise(done => {
    const id = ++number;
    waiting.set(id, { done, progress });
    model.send({ ...message, id });
  });
  const fetchIt = async () => {
    const reply = await call({ type: "plotly" });
    return script(URL.createObjectURL(new Blob([reply.buffers[0]], { type: "text/javascript" })));
  };
  const draw = again => figures(root, { again, fetchIt }).catch(error => console.warn(String(error)));
  const onMessage = (message, buffers) => {
    const asked = waiting.get(message.id);
    if (message.type === "panels") {
      const order = message.order;
      for (const panel of message.panels) put(root, panel);
      for (const section of [...root.querySelectorAll(":scope > [data-panel], :scope > .gt-waiting")]) if (!order.includes(section.dataset.panel)) section.remove();
      order.forEach((name, i) => { const s = root.querySelector(`:scope > [data-panel="${CSS.escape(name)}"]`); if (s && root.children[i] !== s) root.insertBefore(s, root.children[i]); });
      enable(root, !message.past);
      draw(false);
      tell({ ...message, panels: message.panels.map(p => p.name) });
    } else if (message.type === "beat") tell(message);
    else if (message.type === "trouble") tell(message);
    else if (message.type === "progress") asked?.progress?.(message.text);
    else if (message.type === "reply" && asked) { waiting.delete(message.id); asked.done({ ...message, buffers }); }
  };
  const onClick = event => {
    const button = event.target.closest("button.gt-act");
    if (button && root.contains(button)) act(call, button.closest("[data-panel]").dataset.panel, button.dataset.action, button);
  };
  const onLost = () => enable(root, false), onBack = () => enable(root, true), onTheme = () => draw(true);
  model.on("msg:custom", onMessage);
  const onInput = event => { if (event.target.matches?.(".gt-search")) find(event.target); };
  root.addEventListener("click", onClick);
  root.addEventListener("input", onInput);
  document.addEventListener("gt-lost", onLost);
  document.addEventListener("gt-back", onBack);
  document.addEventListener("gt-theme", onTheme);
  const hello = () => model.send({ type: "hello", have: Object.fromEntries([...root.querySelectorAll(":scope > [data-panel]")].map(s => [s.dataset.panel, s.dataset.digest])) });
  document.addEventListener("gt-again", hello);
  hello();
  return () => {
    model.off("msg:custom", onMessage);
    root.removeEventListener("click", onClick);
    root.removeEventListener("input", onInput);
    for (const [name, f] of [["gt-again", hello], ["gt-lost", onLost], ["gt-back", onBack], ["gt-theme", onTheme]]) document.removeEventListener(name, f);
  };
}

export default { render };
