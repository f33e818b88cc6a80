// The page on which reviewers judge: it shows tiles that the server has cut, takes verdicts by key
// and by mouse, and keeps those that the server has not confirmed in the browser.
"use strict";

const VERDICTS = [
  ["right", "r", "1", "right", "a synapse, and its sides are right"],
  ["flipped", "f", "2", "flipped", "a synapse, but pre and post are exchanged"],
  ["not_synapse", "n", "3", "not a synapse", "there is no synapse"],
  ["merged", "m", "4", "merged", "several synapses under one number"],
  ["split", "s", "5", "split", "a part of a synapse; the other part has another number"],
  ["outline", "p", "6", "poor outline", "a synapse with the right sides, but its outline is poor"],
  ["unsure", "u", "7", "unsure", "it cannot be told"],
];
const SEEN = ["seen", "r", "1", "searched: every missed synapse is marked", "no further synapse is missing in this box"];
const OTHER_KEYS = [
  ["↑ ↓, wheel", "go through the sections"],
  ["t, space", "show or hide the sides"],
  ["v", "turn the sections so that pre lies left, or show them as imaged"],
  ["+ −, Ctrl + wheel", "zoom"],
  ["→", "next, without a verdict"],
  ["←", "back to the one before"],
  ["z, Backspace", "undo your last verdict"],
  ["a", "add a missed synapse: click its pre side, then its post side; Esc ends it"],
  ["c", "write a note, which goes with your next verdict"],
  ["g", "open this place in neuroglancer"],
  ["h, ?", "this help"],
];
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
let counted = 0, lastKey = 0;

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
}

let sending = false;
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
    setTimeout(send, LATER);
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
      for (const item of items) queue.push({ item, tile: load(item) });
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
  else if (queue.length) { past.push(queue.shift()); place = past.length - 1; }
  else { ended = false; waitForNext(); return; }
  if (past.length > 400) { past.shift(); place--; }
  open();
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

function back() { if (place > 0) { place--; open(); } }

async function open() {
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
    Object.assign(one.item, { given: item.given, missed: item.missed });
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
  if (past.includes(shown)) { place = past.indexOf(shown); open(); }
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

// ---------------------------------------------------------------- pictures

function view() {
  const tile = past[place].drawn, canvas = at("stack"), shown = about.extent / zoom;
  const scale = canvas.width / shown; // pixels of the page for a nm
  const [, height] = [tile.size[1] * tile.step[2], tile.size[0] * tile.step[1]];
  const middle = { y: tile.corner[1] + height / 2, x: tile.corner[2] + tile.size[1] * tile.step[2] / 2 };
  return { tile, canvas, scale, middle, angle: turned ? tile.angle : 0 };
}

function draw() {
  const shown = past[place];
  if (!shown || !shown.drawn) return;
  const { tile, canvas, scale, middle, angle } = view();
  const pen = canvas.getContext("2d");
  const [height, width] = tile.size;
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.translate(canvas.width / 2, canvas.height / 2);
  pen.rotate(-angle);
  pen.scale(scale, scale);
  const w = width * tile.step[2], h = height * tile.step[1];
  pen.imageSmoothingEnabled = true;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(tile.stack, 0, section * height, width, height, -w / 2, -h / 2, w, h);
  pen.imageSmoothingEnabled = false;
  if (sides) pen.drawImage(tile.stack_sides, 0, section * height, width, height, -w / 2, -h / 2, w, h);
  if (shown.item.kind === "place") {
    const [low, high] = [shown.item.pre, shown.item.post];
    pen.lineWidth = 2 / scale;
    pen.strokeStyle = "#8ab4f8";
    pen.strokeRect(low[2] - middle.x, low[1] - middle.y, high[2] - low[2], high[1] - low[1]);
  }
  for (const one of shown.item.missed || []) drawLine(pen, one.pre, one.post, middle, scale);
  if (first) drawEnd(pen, first, middle, scale, PRE);
  drawScale(pen, scale);
  drawCuts(shown);
  const level = section - Math.floor(tile.sections / 2);
  const nm = Math.round(level * tile.step[0]);
  at("level").textContent = `section ${level > 0 ? "+" : ""}${level} (${nm > 0 ? "+" : ""}${nm} nm)`;
  at("slider").value = section;
}

function drawLine(pen, pre, post, middle, scale) {
  pen.lineWidth = 2 / scale;
  pen.strokeStyle = "#ffeb3b";
  pen.beginPath();
  pen.moveTo(pre[2] - middle.x, pre[1] - middle.y);
  pen.lineTo(post[2] - middle.x, post[1] - middle.y);
  pen.stroke();
  drawEnd(pen, pre, middle, scale, PRE);
  drawEnd(pen, post, middle, scale, POST);
}

function drawEnd(pen, point, middle, scale, colour) {
  pen.fillStyle = colour;
  pen.strokeStyle = "#fff";
  pen.lineWidth = 2 / scale;
  pen.beginPath();
  pen.arc(point[2] - middle.x, point[1] - middle.y, 8 / scale, 0, 7);
  pen.fill();
  pen.stroke();
}

function drawScale(pen, scale) {
  const canvas = at("stack");
  const nm = [50, 100, 200, 500, 1000, 2000, 5000].findLast((n) => n * scale < canvas.width / 3) || 20;
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.fillStyle = "#000a";
  pen.fillRect(16, canvas.height - 62, nm * scale + 24, 50);
  pen.fillStyle = "#fff";
  pen.fillRect(28, canvas.height - 26, nm * scale, 6);
  pen.font = "24px system-ui, sans-serif";
  pen.fillText(`${nm} nm`, 28, canvas.height - 34);
}

function drawCuts(shown) {
  const tile = shown.drawn, size = tile.cuts.naturalHeight;
  for (let k = 0; k < 3; k++) {
    const canvas = at(`cut${k}`), pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = true;
    pen.drawImage(tile.cuts, k * size, 0, size, size, 0, 0, canvas.width, canvas.height);
    pen.imageSmoothingEnabled = false;
    if (sides) pen.drawImage(tile.cuts_sides, k * size, 0, size, size, 0, 0, canvas.width, canvas.height);
    if (k < 2 && about.sides && shown.item.kind !== "place") {
      pen.font = "600 26px system-ui, sans-serif";
      for (const [text, x, colour] of [["pre", 10, PRE], ["post", canvas.width - 64, POST]]) {
        pen.fillStyle = "#000a"; pen.fillRect(x - 6, 4, 66, 32);
        pen.fillStyle = colour; pen.fillText(text, x, 27);
      }
    }
  }
}

function pointOf(event) {
  const { tile, canvas, scale, middle, angle } = view();
  const box = canvas.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width - 0.5) * canvas.width / scale;
  const y = ((event.clientY - box.top) / box.height - 0.5) * canvas.height / scale;
  return [
    tile.corner[0] + section * tile.step[0],
    middle.y + y * Math.cos(angle) + x * Math.sin(angle),
    middle.x + x * Math.cos(angle) - y * Math.sin(angle),
  ];
}

// ---------------------------------------------------------------- words beside the pictures

function make(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function list(pairs) {
  const made = make("dl");
  for (const [key, value] of pairs) made.append(make("dt", key), make("dd", value));
  return made;
}

function showFacts() {
  const { item } = past[place], box = at("facts");
  const middle = item.pre.map((p, k) => (p + item.post[k]) / 2);
  const titles = { found: `Synapse ${item.synapse_id}`, candidate: `Candidate ${item.synapse_id}, below the threshold`, place: `Random place ${item.row + 1}` };
  at("what").textContent = titles[item.kind];
  const pairs = [];
  if (item.kind !== "place") {
    pairs.push(["score", item.score.toFixed(3)]);
    if (about.sides) pairs.push(["size", `${item.pre_voxels} pre, ${item.post_voxels} post voxels`]);
    if (item.partners) pairs.push(["neurons", `${item.partners[0] || "none"} → ${item.partners[1] || "none"}`]);
  }
  pairs.push(["z, y, x", `${middle.map((m) => m.toFixed(0)).join(", ")} nm`]);
  box.replaceChildren(list(pairs));
  if (item.kind === "place") {
    box.append(make("p", "Go through all sections. Click the pre side and then the post side of each synapse in the blue box that has no colour. Then press r.", "quiet"));
  }
  const given = make("ul", undefined, "given");
  const shown = past[place];
  const others = (item.given || []).filter((one) => one.uuid !== shown.uuid);
  const mine = shown.verdict ? [{ reviewer: `${reviewer()} (you)`, verdict: shown.verdict }] : [];
  // what others said is shown when it cannot sway any more
  const open_ = shown.verdict || (item.given || []).some((one) => one.reviewer === reviewer()) || item.kind === "place" || at("order").value === "conflicts";
  if (!open_ && others.length) given.append(make("li", `${others.length} other verdict(s), shown after yours`));
  for (const one of [...mine, ...(open_ ? others : [])]) {
    const text = (VERDICTS.find((v) => v[0] === one.verdict) || [, , , one.verdict])[3];
    given.append(make("li", `${text} — ${one.reviewer}${one.note ? `: ${one.note}` : ""}`, one.verdict));
  }
  if (item.kind === "place" && (item.missed || []).length) given.append(make("li", `${item.missed.length} missed synapse(s) marked`, "missed"));
  box.append(given);
}

function showButtons() {
  const item = past[place] ? past[place].item : null;
  const kinds = item && item.kind === "place" ? [SEEN] : VERDICTS;
  at("verdicts").replaceChildren(...kinds.map(([verdict, key, number, text, meaning]) => {
    const button = make("button", undefined, verdict);
    button.append(text, make("kbd", key), make("kbd", number));
    button.title = meaning;
    button.onclick = () => { lastKey = performance.now(); judge(verdict); };
    if (past[place] && past[place].verdict === verdict) button.classList.add("mine");
    return button;
  }));
  document.querySelector("[data-do=add]").classList.toggle("on", adding);
  document.querySelector("[data-do=sides]").classList.toggle("on", !sides);
  document.querySelector("[data-do=turn]").classList.toggle("on", !turned);
}

function showCount() {
  const left = waiting.length ? `, ${waiting.length} on their way` : "";
  at("count").textContent = `${counted} verdicts in this window${left}`;
  document.body.dataset.waiting = waiting.length;
}

function message(text) { at("message").textContent = text; }

function percent(share) { return `${(100 * share).toFixed(1)} %`; }

function bar(one) {
  const made = make("div", undefined, "bar"), range = make("i"), mark = make("b");
  range.style.left = `${100 * one.low}%`;
  range.style.width = `${Math.max(0.5, 100 * (one.high - one.low))}%`;
  mark.style.left = `${100 * one.value}%`;
  made.append(range, mark);
  return made;
}

function row(cells) {
  const made = make("tr");
  for (const cell of cells) {
    const box = make("td");
    box.append(cell);
    made.append(box);
  }
  return made;
}

let measuring = 0;
function measureSoon() {
  clearTimeout(measuring);
  measuring = setTimeout(measure, 300);
}

async function measure() {
  let q;
  try { q = await ask("quality"); } catch { return; }
  const table = make("table");
  const names = [["precision", "precision"], ["sides", "side accuracy"], ["right", "right in all"], ["recall", "recall"]];
  for (const [key, text] of names) {
    if (key === "sides" && !about.sides) continue;
    const one = q[key];
    if (!one) { table.append(row([text, make("span", "not known yet", "quiet")])); continue; }
    const cell = make("div", `${percent(one.value)}  (${percent(one.low)} to ${percent(one.high)})`);
    cell.append(bar(one));
    table.append(row([text, cell]));
  }
  const box = at("quality");
  box.replaceChildren(table);
  if (q.more !== null && q.more > 0) box.append(make("p", `${q.more} more verdicts of the random sample bring the precision's 95 % interval to ${percent(q.width)}.`));
  else if (q.more === 0) box.append(make("p", `The precision's 95 % interval is shorter than ${percent(q.width)}.`));
  else box.append(make("p", "The random sample tells as soon as each class of scores has a verdict.", "quiet"));
  if (!q.recall) box.append(make("p", "Recall needs verdicts about random places, or about candidates.", "quiet"));
  const strata = make("table"), head = make("tr");
  for (const text of ["score", "judged", "precision", "from here up"]) head.append(make("th", text));
  strata.append(head);
  for (const s of q.strata) {
    strata.append(row([
      `${s.score[0].toFixed(2)}–${s.score[1].toFixed(2)}`, `${s.judged} of ${s.synapses}`,
      s.precision ? percent(s.precision.value) : "–", s.from_here ? percent(s.from_here.value) : "–",
    ]));
  }
  box.append(strata);
  for (const a of q.agreement) {
    const kappa = a.kappa ? `, kappa ${a.kappa.value.toFixed(2)} (${a.kappa.low.toFixed(2)} to ${a.kappa.high.toFixed(2)})` : "";
    box.append(make("p", `${a.reviewers.join(" and ")}: the same verdict about ${a.same} of ${a.synapses}${kappa}`));
  }
  const rest = [[q.disputed, "disputed"], [q.unsure, "unsure or disputed"], [q.added, "missed synapses added"], [q.places_searched, `of ${q.places} places searched`]];
  box.append(make("p", rest.filter(([n]) => n).map(([n, text]) => `${n} ${text}`).join(", "), "quiet"));
  const loose = Object.entries(q.loose).map(([why, n]) => `${n} ${why}`).join(", ");
  if (loose) box.append(make("p", `Verdicts of other decodings that have no synapse here: ${loose}.`, "quiet"));
  box.append(make("p", q.blind, "quiet"));
  document.body.dataset.judged = q.judged;
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
    at("ask").returnValue = "";
    at("ask").onclose = () => { if (at("ask").returnValue === "ok") note = at("answer").value.trim(); };
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
