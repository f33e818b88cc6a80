// The page on which reviewers judge: it shows tiles that the server has cut, takes verdicts by key
// and by mouse, and keeps those that the server has not confirmed in the browser.
"use strict";

const AHEAD = 6; // tiles that are loaded ahead
const LATER = 2000; // ms until verdicts are sent again to a server that does not answer
const PRE = "#ff1ae6", POST = "#00d9ff";
const at = (id) => document.getElementById(id);

let about = { orders: {} };
let queue = []; // what comes: {item, tile}
let past = []; // what was shown: {item, tile, uuid, verdict}
let place = -1; // in `past`
let section = 0, zoom = 1, sides = true, turned = true;
let adding = false, first = null, note = "";
let asking = false, ended = false, round = 0;
let waiting = []; // verdicts that the server has not confirmed
let done = []; // own verdicts, for undo: {uuid, shown}
let counted = 0, lastKey = 0, cut = {};

// ---------------------------------------------------------------- the server

async function ask(path, sent) {
  const options = sent === undefined ? {} : { method: "POST", body: JSON.stringify(sent) };
  const answer = await fetch(path, { cache: "no-store", ...options });
  const content = await answer.json();
  if (!answer.ok) throw new Refused(content.error || answer.statusText, answer.status);
  return content;
}

class Refused extends Error {
  constructor(text, status) { super(text); this.status = status; }
}

function kept() { return `synpol_waiting:${about.store}`; }

// Other pages of this browser may hold verdicts too, so each verdict has a key of its own.
function keep(verdict) {
  waiting.push(verdict);
  localStorage.setItem(`${kept()}:${verdict.uuid}`, JSON.stringify(verdict));
}

function recover() {
  for (let k = 0; k < localStorage.length; k++) {
    const key = localStorage.key(k);
    if (!key.startsWith(`${kept()}:`)) continue;
    const verdict = JSON.parse(localStorage.getItem(key));
    if (!waiting.some((one) => one.uuid === verdict.uuid)) waiting.push(verdict);
  }
  waiting.sort((one, other) => (one.made_at < other.made_at ? -1 : 1));
}

let sending = false, again = 0;
async function send() {
  if (sending || !waiting.length) return;
  sending = true;
  const some = waiting.slice(0, 100);
  try {
    await ask("verdicts", { verdicts: some });
    for (const one of some) localStorage.removeItem(`${kept()}:${one.uuid}`);
    waiting = waiting.filter((one) => !some.includes(one));
    warn("");
    measureSoon();
  } catch (error) {
    const why = error instanceof Refused && error.status === 400 ? error.message
      : `the server does not answer: start it again with the same command, and open the address that it prints (${error.message})`;
    warn(`${waiting.length} verdict(s) are kept in this browser and not yet with the server; ${why}.`);
    clearTimeout(again);
    again = setTimeout(send, LATER);
  }
  sending = false;
  showCount();
  if (waiting.length && waiting[0] !== some[0]) send();
}

function warn(text) {
  at("warning").textContent = text;
  at("warning").hidden = !text;
}

// ---------------------------------------------------------------- what comes next

function name(item) { return `${item.kind}:${item.row}`; }

async function fill() {
  if (asking || ended || queue.length >= AHEAD) return;
  asking = true;
  const mine = round;
  const current = past.slice(-AHEAD).concat(queue).map((one) => name(one.item));
  const skipped = past.filter((one) => !one.uuid).map((one) => name(one.item)).slice(-60);
  const unsent = past.filter((one) => waiting.some((w) => w.uuid === one.uuid)).map((one) => name(one.item));
  const query = new URLSearchParams({
    order: at("order").value, reviewer: reviewer(), count: AHEAD - queue.length,
    skip: [...new Set([...current, ...skipped, ...unsent])].join(","),
  });
  for (const key of ["z", "y", "x"]) if (at("order").value === "place") query.set(key, at(key).value);
  if (at("order").value === "neuron") query.set("neuron", at("neuron").value);
  try {
    const items = await ask(`next?${query}`);
    if (mine === round) {
      for (const item of items) expect(item);
      ended = !items.length;
      message(ended && !queue.length && place === past.length - 1 ? "There is nothing more in this order." : "");
    }
  } catch (error) {
    if (mine === round) {
      message(error instanceof Refused ? error.message : "the server does not answer");
      ended = error instanceof Refused;
      if (!ended) setTimeout(fill, LATER);
    }
  }
  asking = false;
  if (mine !== round) fill();
}

function expect(item) {
  const one = { item, tile: load(item) };
  queue.push(one);
  one.tile.then((tile) => { one.drawn = tile; countAhead(); }, () => {}); // `show` tells of a fault
}

function countAhead() { document.body.dataset.ahead = queue.filter((one) => one.drawn).length; }

async function load(item) {
  const tile = await ask(`tile/${item.kind}/${item.row}`);
  const names = ["stack", "stack_sides", "cuts", "cuts_sides"];
  await Promise.all(names.map(async (part) => {
    const picture = new Image();
    picture.src = tile[part];
    await picture.decode();
    tile[part] = picture;
  }));
  return tile;
}

// Begin another order; what was judged can still be gone back to.
function restart() {
  round++;
  queue = []; ended = false;
  past = past.filter((one) => one.uuid);
  place = past.length - 1;
  waitForNext();
}

function forward() {
  if (place < past.length - 1) place++;
  else if (queue.length) { past.push(queue.shift()); place = past.length - 1; countAhead(); }
  else { ended = false; waitForNext(); return; }
  if (past.length > 400) { past.shift(); place--; }
  show();
  fill();
}

let eager = false;
function waitForNext() {
  if (eager) return;
  eager = true;
  fill();
  const timer = setInterval(() => {
    if (queue.length) { clearInterval(timer); eager = false; forward(); } else if (ended && !asking) { clearInterval(timer); eager = false; }
  }, 20);
}

function back() { if (place > 0) { place--; show(); } }

async function show() {
  const one = past[place];
  adding = false; first = null;
  showFacts(); showButtons();
  try {
    one.drawn = await one.tile;
  } catch (error) {
    one.failed = error.message;
  }
  if (past[place] !== one) return;
  if (one.failed) { message(one.failed); one.tile = load(one.item); one.tile.catch(() => {}); one.failed = ""; return; }
  section = Math.floor(one.drawn.sections / 2);
  at("slider").max = one.drawn.sections - 1;
  document.body.dataset.shown = name(one.item); // for tests, and for how long a tile took
  document.body.dataset.took = (performance.now() - lastKey).toFixed(1);
  draw();
  refresh(one);
}

// Verdicts that others gave meanwhile are shown beside one's own.
async function refresh(one) {
  try {
    const item = await ask(`item/${one.item.kind}/${one.item.row}`);
    const before = JSON.stringify([one.item.given, one.item.missed]);
    Object.assign(one.item, { given: item.given, missed: item.missed });
    if (JSON.stringify([item.given, item.missed]) === before) return;
  } catch { return; }
  if (past[place] === one) { showFacts(); draw(); }
}

// ---------------------------------------------------------------- verdicts

function reviewer() { return at("reviewer").value.trim() || about.reviewer; }

function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

function record(verdict, more) {
  const one = { verdict, reviewer: reviewer(), uuid: newId(), made_at: new Date().toISOString(), origin: at("order").value, ...more };
  if (note && verdict !== "undo") { one.note = note; note = ""; }
  keep(one);
  send();
  showCount();
  return one;
}

function judge(verdict) {
  const shown = past[place];
  if (!shown || !shown.drawn || document.body.dataset.shown !== name(shown.item)) return;
  const item = shown.item;
  const kinds = item.kind === "place" ? ["seen"] : VERDICTS.map((v) => v[0]);
  if (!kinds.includes(verdict)) return;
  const more = {};
  for (const key of ["pre", "post", "pre_voxels", "post_voxels", "score", "synapse_id", "table_hash", "stratum", "stratum_size"]) {
    if (item[key] !== undefined) more[key] = item[key];
  }
  const one = record(verdict, more);
  shown.uuid = one.uuid; shown.verdict = verdict;
  counted++;
  done.push({ uuid: one.uuid, shown });
  forward();
}

function undo() {
  const last = done.pop();
  if (!last) { message("There is no verdict of yours to undo."); return; }
  record("undo", { undoes: last.uuid });
  counted--;
  const { shown } = last;
  if (last.missed) shown.item.missed = shown.item.missed.filter((one) => one.uuid !== last.uuid);
  else { shown.uuid = ""; shown.verdict = ""; shown.item.given = (shown.item.given || []).filter((one) => one.uuid !== last.uuid); }
  if (past.includes(shown)) { place = past.indexOf(shown); show(); }
}

function addMissed(point) {
  if (!first) { first = point; message("now click its post side"); draw(); return; }
  const one = record("missed", { pre: first, post: point });
  done.push({ uuid: one.uuid, shown: past[place], missed: true });
  past[place].item.missed = [...(past[place].item.missed || []), one];
  first = null;
  counted++;
  if (past[place].item.kind !== "place") { adding = false; showButtons(); }
  message("");
  draw();
}

// ---------------------------------------------------------------- keys and mouse

const ACTIONS = {
  back, forward, undo,
  sides() { sides = !sides; showButtons(); draw(); },
  turn() { turned = !turned; showButtons(); draw(); },
  "zoom-in"() { zoom = Math.min(4, zoom * 1.25); draw(); },
  "zoom-out"() { zoom = Math.max(0.7, zoom / 1.25); draw(); },
  up() { scroll(-1); },
  down() { scroll(1); },
  add() {
    if (!past[place]) return;
    adding = !adding; first = null;
    message(adding ? "click the pre side of the missed synapse" : "");
    showButtons(); draw();
  },
  escape() { adding = false; first = null; message(""); showButtons(); draw(); },
  note() {
    at("question").textContent = "note for the next verdict";
    at("answer").value = note;
    at("ask").firstElementChild.onsubmit = () => { note = at("answer").value.trim(); };
    at("ask").showModal();
  },
  async scene() {
    const shown = past[place];
    if (!shown) return;
    const window_ = window.open("about:blank", "synpol_scene");
    const middle = shown.item.pre.map((p, k) => (p + shown.item.post[k]) / 2);
    try {
      const { way } = await ask("scene", { place: middle, reviewer: reviewer() });
      if (window_) { if (!window_.location.pathname.startsWith(way)) window_.location.replace(way); window_.focus(); }
      else message("The browser did not open a window; allow it for this page.");
    } catch (error) { message(error.message); }
  },
  help() { at("help").showModal(); },
};

function scroll(by) {
  const shown = past[place];
  if (!shown || !shown.drawn) return;
  section = Math.max(0, Math.min(shown.drawn.sections - 1, section + by));
  draw();
}

const KEYS = {
  ArrowUp: "up", ArrowDown: "down", ArrowLeft: "back", ArrowRight: "forward", Backspace: "undo", z: "undo",
  t: "sides", " ": "sides", v: "turn", "+": "zoom-in", "=": "zoom-in", "-": "zoom-out", a: "add", c: "note",
  g: "scene", h: "help", "?": "help", Escape: "escape",
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.matches("input:not([type=range]), select")) { if (event.key === "Escape") event.target.blur(); return; }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isPlace = past[place] && past[place].item.kind === "place";
  const verdict = (isPlace ? [SEEN] : VERDICTS).find((v) => v[1] === key || v[2] === key);
  if (!verdict && !KEYS[key]) return;
  event.preventDefault();
  if (event.repeat && (verdict || KEYS[key] === "undo")) return; // a key that is held judges once
  lastKey = performance.now();
  if (verdict) judge(verdict[0]);
  else ACTIONS[KEYS[key]]();
});

document.querySelectorAll("[data-do]").forEach((button) => {
  button.onclick = () => { lastKey = performance.now(); ACTIONS[button.dataset.do](); button.blur(); };
});

at("stack").addEventListener("wheel", (event) => {
  event.preventDefault();
  if (event.ctrlKey) ACTIONS[event.deltaY < 0 ? "zoom-in" : "zoom-out"]();
  else scroll(Math.sign(event.deltaY));
}, { passive: false });

at("stack").addEventListener("click", (event) => {
  const shown = past[place];
  if (shown && shown.drawn && (adding || shown.item.kind === "place")) addMissed(pointOf(event));
});

at("slider").oninput = () => { section = Number(at("slider").value); draw(); };

at("order").onchange = () => {
  at("near").hidden = at("order").value !== "place";
  at("of").hidden = at("order").value !== "neuron";
  at("order").blur();
  const needs = { place: "Say where: z, y, x in nm.", neuron: "Say which neuron." }[at("order").value];
  if (needs) message(needs);
  if (!needs || at(at("order").value === "place" ? "z" : "neuron").value) restart();
};
for (const id of ["z", "y", "x", "neuron"]) at(id).onchange = restart;
at("reviewer").onchange = () => {
  localStorage.setItem("synpol_reviewer", reviewer());
  at("reviewer").blur();
  done = [];
  restart();
};
at("help-button").onclick = () => { ACTIONS.help(); at("help-button").blur(); };

function writeHelp() {
  const table = make("table");
  for (const [, key, number, text, meaning] of VERDICTS) table.append(row([`${key} or ${number}`, `${text}: ${meaning}`]));
  for (const [keys, meaning] of OTHER_KEYS) table.append(row([keys, meaning]));
  const close = make("button", "close");
  close.onclick = () => at("help").close();
  at("help").replaceChildren(
    make("h2", "Keys"), table,
    make("p", "Everything can be done with the mouse alone, by the buttons; the wheel goes through the sections."),
    make("p", "A verdict counts when the server has written it to the disk. Until then it is kept in this browser."), close,
  );
}

async function begin() {
  writeHelp();
  about = await ask("about");
  at("title").textContent = at("title").title = about.title;
  document.title = `review: ${about.title}`;
  at("reviewer").value = localStorage.getItem("synpol_reviewer") || about.reviewer;
  for (const [value, text] of Object.entries(about.orders)) {
    const option = make("option", text);
    option.value = value;
    at("order").append(option);
  }
  recover();
  showCount();
  showButtons();
  await send();
  waitForNext();
  measure();
}

begin().catch((error) => warn(`the page cannot begin: ${error.message}`));
