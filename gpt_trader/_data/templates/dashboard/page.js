// The page around the panels: clock, theme, as-of control, and whether the page is still alive.
import { figures } from "./live.js";

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

// A kernel that Voila's client reports as dead or gone is noticed by its silence; a page that is left gives its kernel back at once.
if (facts.kernel_wanted) {
  facts.opened = performance.now();
  watch();
  addEventListener("pagehide", () => {
    const id = JSON.parse(document.getElementById("jupyter-config-data")?.textContent || "{}").kernelId;
    if (!id) return;
    live.stopped = true;
    const form = new FormData();
    form.append("_xsrf", facts.xsrf);
    navigator.sendBeacon(`${facts.base}voila/api/shutdown/${id}`, form);
  });
  addEventListener("pageshow", event => { if (event.persisted) location.reload(); });
}
document.addEventListener("DOMContentLoaded", () => {
  facts.kernel = JSON.parse(document.getElementById("jupyter-config-data")?.textContent || "{}").kernelId;
  if (!facts.kernel && facts.kernel_wanted && !live.since) facts.opened = -1e9;
});
figures(root).catch(() => text("gt-said", "The figures could not be drawn."));
new MutationObserver(() => { if (!live.since) figures(root).catch(() => text("gt-said", "The figures could not be drawn.")); }).observe(root, { childList: true });
