// Writes what stands beside the pictures. The state is that of page.js.
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
  if (q.cutoff && q.cutoff.score > 0) box.append(make("p", `F1 would rise from ${q.cutoff.f1_without.toFixed(3)} to ${q.cutoff.f1.toFixed(3)} without the synapses of scores below ${q.cutoff.score.toFixed(3)}.`));
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
