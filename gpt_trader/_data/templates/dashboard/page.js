// The page around the panels: clock, theme, as-of control, and whether the page is still alive.
import client, { figures } from "./live.js";

const html = document.documentElement, $ = id => document.getElementById(id);
const facts = JSON.parse($("gt-facts").textContent);
const root = document.querySelector("[data-gt-panels]");
const text = (id, value) => { const e = $(id); if (e && e.textContent !== value) e.textContent = value; };

// ---------------------------------------------------------------- theme
const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => html.dataset.theme ? html.dataset.theme === "dark" : system.matches;
function themeChanged() {
  $("gt-theme").setAttribute("aria-pressed", String(isDark()));
  document.dispatchEvent(new CustomEvent("gt-theme"));
  if (!live.since) figures(root, { again: true }).catch(() => text("gt-said", "The figures could not be drawn."));
}
$("gt-theme").addEventListener("click", () => {
  const next = isDark() ? "light" : "dark";
  if ((next === "dark") === system.matches) delete html.dataset.theme; else html.dataset.theme = next;
  try { localStorage.setItem("gt-theme", html.dataset.theme || ""); } catch (error) { text("gt-said", "The choice of theme cannot be kept here."); }
  themeChanged();
});
system.addEventListener("change", themeChanged);
$("gt-theme").setAttribute("aria-pressed", String(isDark()));

// ---------------------------------------------------------------- clock
const live = { since: 0, beat: 0, lost: false, stopped: false, trouble: "" };
let clock = { now: Date.parse(facts.now), at: performance.now(), simulated: facts.simulated };
function tick() {
  const now = new Date(clock.simulated || facts.past ? clock.now : clock.now + performance.now() - clock.at);
  text("gt-clock", now.toISOString().slice(0, 19).replace("T", " "));
}
setInterval(tick, 1000);
tick();

// ---------------------------------------------------------------- as of
const asOf = $("gt-as-of");
asOf?.addEventListener("submit", event => {
  event.preventDefault();
  const chosen = asOf.elements.as_of.value, url = new URL(location.href);
  if (chosen) url.searchParams.set("as_of", chosen.length === 16 ? `${chosen}:59Z` : `${chosen}Z`); else url.searchParams.delete("as_of");
  location.assign(url);
});

// ---------------------------------------------------------------- alive or lost
const BEAT = 2000, PATIENCE = 3 * BEAT;
function show(state, words, button) {
  html.dataset.connection = state;
  text("gt-connection", { connecting: "connecting", live: "live", lost: "connection lost", trouble: "not up to date" }[state]);
  const bar = $("gt-lost");
  bar.hidden = state !== "lost" && state !== "trouble";
  if (bar.hidden) return;
  text("gt-lost-text", words);
  $("gt-reload").hidden = !button;
}
$("gt-reload").addEventListener("click", () => location.reload());

function alive(detail) {
  const first = !live.since;
  live.beat = performance.now();
  live.since ||= live.beat;
  if (live.lost) { live.lost = false; document.dispatchEvent(new CustomEvent("gt-back")); text("gt-said", "The connection is back."); }
  if (detail.type === "trouble") live.trouble = detail.text; else if (detail.type === "panels") live.trouble = "";
  if (live.trouble) return show("trouble", live.trouble, true);
  show("live");
  if (detail.now) { clock = { now: Date.parse(detail.now), at: performance.now(), simulated: detail.simulated }; tick(); }
  if (detail.session) text("gt-session", detail.session);
  if (detail.head !== undefined) text("gt-head", `#${detail.head}`);
  if (detail.type === "panels") {
    $("gt-stale").hidden = true;
    if (!first && detail.panels.length) text("gt-said", `Updated: ${detail.panels.join(", ").replaceAll("_", " ")}.`);
  }
}
document.addEventListener("gt-live", event => alive(event.detail));

async function why() {
  try {
    const answer = await fetch(`${facts.base}api/alive/${facts.kernel || "none"}`, { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (answer.status === 401 || answer.status === 403) return ["You are no longer signed in. Open the address that gpt-trader dashboard printed.", true];
    if (!answer.ok) return [`The dashboard's server answers with ${answer.status}.`, true];
    return (await answer.json()).kernel ? ["The page's process is silent. Trying to reach it again …", true] : ["The page's process has ended; what is shown is not kept up to date.", true];
  } catch (error) {
    return ["The dashboard's server does not answer; what is shown is not kept up to date. Trying again …", false];
  }
}

async function watch() {
  const silent = performance.now() - (live.beat || facts.opened);
  if (silent > (live.beat ? PATIENCE : 45000) && !live.stopped) {
    const [words, button] = await why();
    if (performance.now() - (live.beat || facts.opened) > PATIENCE) {
      if (!live.lost) { live.lost = true; document.dispatchEvent(new CustomEvent("gt-lost")); text("gt-said", "Connection lost."); }
      show("lost", words, button);
    }
  }
  setTimeout(watch, live.lost ? 3000 : 1000);
}

// ---------------------------------------------------------------- the channel to the page's own process
// A bare Jupyter comm: messages as widgets send them, without a widget library. Closed sockets are opened again for as long as the process lives.
function connect(kernel, comm) {
  const handlers = new Set(), waiting = [], session = crypto.randomUUID().replaceAll("-", "");
  const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${facts.base}api/kernels/${kernel}/channels?session_id=${session}`;
  let socket, tries = 0, number = 0;
  const open = () => {
    socket = new WebSocket(url);
    socket.onopen = () => {
      if (tries) document.dispatchEvent(new CustomEvent("gt-again"));
      tries = 0;
      for (const message of waiting.splice(0)) socket.send(message);
    };
    socket.onmessage = event => {
      if (typeof event.data !== "string") return;
      const { header, content } = JSON.parse(event.data);
      if (header.msg_type === "comm_msg" && content.comm_id === comm && content.data.method === "custom") for (const f of handlers) f(content.data.content, []);
      else if (header.msg_type === "status" && content.execution_state === "dead") live.beat = -1e9;
    };
    socket.onclose = () => {
      if (live.stopped) return;
      live.beat = -1e9;
      setTimeout(open, Math.min(8000, 500 * 2 ** tries++));
    };
  };
  open();
  return {
    on: (name, f) => handlers.add(f), off: (name, f) => handlers.delete(f), get: () => "",
    send(content) {
      const message = JSON.stringify({
        channel: "shell", metadata: {}, parent_header: {}, content: { comm_id: comm, data: { method: "custom", content } },
        header: { msg_id: `${session}_${++number}`, msg_type: "comm_msg", session, username: "", version: "5.3", date: new Date().toISOString() } });
      if (socket.readyState === WebSocket.OPEN) socket.send(message); else waiting.push(message);
    },
  };
}

// A page that is left gives its process back at once.
if (facts.kernel_wanted) {
  facts.opened = performance.now();
  watch();
  addEventListener("pagehide", () => {
    live.stopped = true;
    if (!facts.kernel) return;
    const form = new FormData();
    form.append("_xsrf", facts.xsrf);
    navigator.sendBeacon(`${facts.base}voila/api/shutdown/${facts.kernel}`, form);
  });
  addEventListener("pageshow", event => { if (event.persisted) location.reload(); });
}
function complete() {
  facts.kernel = JSON.parse($("jupyter-config-data")?.textContent || "{}").kernelId;
  const channel = $("gt-channel");
  if (facts.kernel && channel) client.render({ model: connect(facts.kernel, JSON.parse(channel.textContent).comm), el: root });
  else if (facts.kernel_wanted && !live.since && !document.querySelector("[data-gt-widgets]")) facts.opened = -1e9;
}
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", complete); else complete();
figures(root).catch(() => text("gt-said", "The figures could not be drawn."));
new MutationObserver(() => { if (!live.since) figures(root).catch(() => text("gt-said", "The figures could not be drawn.")); }).observe(root, { childList: true });
