"use strict";

// Names of files and classes are text that others wrote: they are set as text, never as HTML.

const GRID = 24, AHEAD = 6, KNOWN = 200; // pictures of a grid, fetched ahead, and not asked for again
const EVERY = 1500, SLOWEST = 5000; // ms between looks at the server, and between tries to reach it
const STORE = document.body.dataset.store;
const SENT = 2_500_000; // bytes of a file as it is; larger ones are made smaller

let state = { edition: "", version: 0, answers: 0, classes: [], keys: "" };
let lists = {};
let mode = "next", wantsGrid = false, isExplaining = false;

const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function say(text) {
  $("live").textContent = text;
}

async function ask(path, body) {
  const sent = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, sent);
  if (answer.status === 403) throw new Error("the server was started anew: open the address that it printed, in this browser");
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  return told;
}

function reason(error) {
  return error instanceof TypeError ? "the server is away: start drmm label again" : error.message;
}

// --- deeds: kept in this browser until the server has them on its disk -------------------------------------------

const PREFIX = `drmm ${STORE} `, TAB = crypto.getRandomValues(new Uint32Array(2)).join("-");
const waiting = new Map();
let isSending = false, failures = 0, counted = 0;

function keep(work) {
  try {
    return work(localStorage);
  } catch {
    return undefined; // a window without a memory
  }
}

function remember() {
  keep((box) => {
    const keys = Object.keys(box).filter((key) => key.startsWith(PREFIX));
    for (const key of keys.sort()) waiting.set(key.slice(PREFIX.length), JSON.parse(box.getItem(key)));
  });
}

function enqueue(deed) {
  const once = `${Date.now()}-${String(counted++).padStart(6, "0")}-${TAB}`;
  waiting.set(once, deed);
  keep((box) => box.setItem(PREFIX + once, JSON.stringify(deed)));
  showSaved();
  if (deed.kind === "class") showClasses();
  send();
}

function forget(once) {
  waiting.delete(once);
  keep((box) => box.removeItem(PREFIX + once));
}

async function send() {
  if (isSending || !waiting.size) return;
  isSending = true;
  try {
    const some = [...waiting].slice(0, 50).map(([once, deed]) => ({ ...deed, once }));
    const told = await ask("/deeds", { deeds: some });
    Object.keys(told.refused).forEach(unmark);
    [...told.done, ...Object.keys(told.refused)].forEach(forget);
    const refused = Object.values(told.refused);
    showTrouble("deeds", refused.length ? `Not done: ${refused.join("; ")}. ` : "");
    showTrouble("link", told.error ? `Nothing is lost, and tried again: ${told.error}.` : "");
    failures = told.error ? failures + 1 : 0;
    take(told.state);
    if (told.turned.length) showTurned(told.turned.at(-1));
  } catch (error) {
    failures += 1;
    showTrouble("link", `Nothing is lost: what you do is kept in this browser and sent later (${reason(error)}).`);
  }
  isSending = false;
  showSaved();
  if (waiting.size) setTimeout(send, failures ? Math.min(250 * 2 ** failures, SLOWEST) : 0);
}

function showSaved() {
  const n = waiting.size;
  $("saved").textContent = n ? (failures ? `${n} not saved yet` : "saving …") : `${state.labelled ?? 0} labels, saved`;
  $("saved").classList.toggle("waiting", n > 0 && failures > 0);
}

// What was refused is not labelled after all.
function unmark(once) {
  const pictures = waiting.get(once)?.pictures ?? [];
  const items = Object.values(lists).flatMap((one) => one.items).filter((item) => pictures.includes(item.digest));
  items.forEach((item) => Object.assign(item, { isDone: false, isSkipped: false, label: null, named: undefined }));
  show();
}

const trouble = { deeds: "", link: "" };

function showTrouble(kind, text) {
  trouble[kind] = text;
  const all = trouble.deeds + trouble.link;
  if ($("trouble").textContent !== all) $("trouble").textContent = all;
}

// --- what the server says -----------------------------------------------------------------------------------------

function take(told) {
  const isAnew = told.edition !== state.edition, hasLearned = told.answers !== state.answers;
  if (!isAnew && told.version < state.version) return; // an older answer that came later
  state = told;
  if (isAnew) lists = {};
  if (hasLearned) Object.values(lists).forEach(forgetAhead);
  showClasses();
  showFacts();
  showSaved();
  nameTheNew();
  if (isAnew || hasLearned) fill().then(show);
}

function forgetAhead(list) {
  const last = isMany() ? pageOf(list).length + startOf(list) : list.at + 2;
  list.items = list.items.filter((item, i) => i < last || item.isDone);
  list.isEnd = false;
}

async function look() {
  try {
    take(await ask("/state"));
    if (!waiting.size) showTrouble("link", "");
  } catch (error) {
    if (!waiting.size) showTrouble("link", `Nothing is lost (${reason(error)}).`);
  }
}

function showFacts() {
  $("quality").textContent = state.quality;
  $("learning").textContent = state.learning;
  $("table").textContent = state.table;
  $("command").textContent = state.command;
}

// --- the pictures: a list for each way of looking -------------------------------------------------------------------

const list = () => (lists[mode] ??= { items: [], at: 0, note: "", isEnd: false, isFilling: false });
const here = () => list().items[list().at];
const isMany = () => wantsGrid || mode === "strangers";
const startOf = (from) => (mode === "strangers" ? 0 : Math.floor(from.at / GRID) * GRID);
const pageOf = (from) => {
  if (!isMany()) return from.items.slice(from.at, from.at + 1);
  return mode === "strangers" ? from.items : from.items.slice(startOf(from), startOf(from) + GRID);
};
const chosen = () => (isMany() ? pageOf(list()).filter((item) => item.isChosen) : []);
const targets = () => (chosen().length ? chosen() : [here()].filter(Boolean));

async function fill() {
  const mine = list(), asked = mode;
  if (mode === "try" || mine.isFilling || mine.isEnd) return;
  const wanted = mode === "strangers" ? (mine.items.length ? 0 : GRID) : isMany() ? startOf(mine) + GRID : mine.at + 1 + AHEAD;
  const missing = wanted - mine.items.length;
  if (missing <= 0) return;
  mine.isFilling = true;
  try {
    const unsent = [...waiting.values()].flatMap((deed) => deed.pictures ?? []); // of which the server may not know
    const but = mine.items.slice(-KNOWN).map((item) => item.number);
    const told = await ask(`/pictures?mode=${asked}&n=${missing}&but=${but}`);
    mine.note = told.note;
    mine.isEnd = !told.pictures.length;
    const known = new Set([...mine.items.map((item) => item.digest), ...unsent]);
    const fresh = told.pictures.filter((item) => !known.has(item.digest));
    fresh.forEach((item) => Object.assign(item, { isDone: false, isChosen: asked === "strangers" }));
    mine.items.push(...fresh);
    fresh.forEach((item) => imageOf(item));
  } catch (error) {
    showTrouble("link", `Nothing is lost (${reason(error)}).`);
  }
  mine.isFilling = false;
}

async function fillAndShow() {
  const before = list().items.length;
  await fill();
  if (list().items.length !== before || !here()) show();
}

function imageOf(item) {
  const size = isMany() ? "thumbnail" : "picture";
  return (item[size] ??= image(`/${size}/${item.number}?${state.edition}`, item.file));
}

function image(source, alt) {
  const made = make("img", { alt, decoding: "async", draggable: false });
  made.addEventListener("load", () => made.classList.toggle("small", made.naturalWidth <= 96));
  made.addEventListener("error", () => made.replaceWith(make("span", { className: "gone", textContent: "cannot be shown" })));
  made.src = source;
  return made;
}

// --- showing them ---------------------------------------------------------------------------------------------------

function show() {
  $("looking").hidden = mode === "try";
  $("trying").hidden = mode !== "try";
  document.querySelectorAll("nav a").forEach((link) => {
    link.ariaCurrent = link.hash === `#${mode}` ? "page" : null;
  });
  $("grid").ariaPressed = String(isMany());
  $("why").ariaPressed = String(isExplaining);
  if (mode === "try") return;
  const mine = list(), shown = pageOf(mine);
  $("note").textContent = mine.note || (shown.length ? "" : mine.isEnd ? "There is nothing more to look at here." : "Looking …");
  $("stage").hidden = !shown.length;
  $("stage").className = isMany() ? "many" : "one";
  $("stage").replaceChildren(...shown.map(tile));
  if (document.activeElement === document.body) $("stage").focus();
  const at = document.querySelector(".here");
  if (at) $("stage").setAttribute("aria-activedescendant", at.id);
  else $("stage").removeAttribute("aria-activedescendant");
  if (isMany()) at?.scrollIntoView({ block: "nearest" });
  showOffer();
  explain();
}

function tile(item) {
  const isHere = item === here();
  const words = [make("small", { textContent: item.file })];
  const label = labelOf(item);
  if (label) words.unshift(make("small", { className: "label", textContent: label }));
  else if (isMany() && item.proposal !== null) words.unshift(make("small", { textContent: `${nameOf(item.proposal)}?` }));
  const made = make("div", { className: isHere ? "tile here" : "tile", id: `picture-${item.number}` }, imageOf(item), ...words);
  made.role = "option";
  made.ariaSelected = String(isMany() ? item.isChosen : isHere);
  made.addEventListener("click", (event) => {
    list().at = list().items.indexOf(item);
    if (isMany() && (event.ctrlKey || event.metaKey || event.shiftKey || mode === "strangers")) item.isChosen = !item.isChosen;
    $("stage").focus();
    show();
  });
  return made;
}

function labelOf(item) {
  if (item.isSkipped) return "skipped";
  return item.named ?? (item.label === null ? "" : nameOf(item.label));
}

// Within a sentence: a name that is written from right to left turns none of the rest around.
function nameOf(id) {
  const name = state.classes.find((one) => one.id === id)?.name;
  return name === undefined ? "" : `\u2068${name}\u2069`;
}

// Those that the server does not know yet have a name alone, and the key that they will have.
function classes() {
  const known = new Set(state.classes.map((one) => one.name));
  const named = [...waiting.values()].filter((deed) => deed.kind === "class" && !known.has(deed.name)).map((deed) => deed.name);
  return [...state.classes, ...[...new Set(named)].map((name, i) => ({ id: null, name, key: state.keys[i] ?? "", pictures: "…" }))];
}

function offerOf(item) {
  if (!item || item.proposal === null) return "";
  return nameOf(item.proposal) + (item.sure ? `, ${Math.round(100 * item.sure)} % sure` : "");
}

function showOffer() {
  const item = here(), offer = offerOf(item);
  $("accept").disabled = !offer;
  $("accept").textContent = offer ? `Accept ${nameOf(item.proposal)}` : "Accept";
  $("offer").replaceChildren();
  if (offer) $("offer").append("The model says ", make("strong", { textContent: offer }), ". ");
  if (item?.why) $("offer").append(`Asked because ${item.why}.`);
}

// --- what a person does ---------------------------------------------------------------------------------------------

function give(items, deed, marks) {
  for (const isDrawn of [false, true]) {
    const some = items.filter((item) => item.drawn === isDrawn);
    if (some.length) enqueue({ ...deed, pictures: some.map((item) => item.digest), drawn: isDrawn });
  }
  items.forEach((item) => Object.assign(item, { isDone: true, isChosen: false, isSkipped: false, named: undefined }, marks));
}

function label(one) {
  const items = targets();
  if (!items.length) return;
  if (one.id === null) give(items, { kind: "class", name: one.name }, { label: null, named: one.name });
  else give(items, { kind: "label", class: one.id, by: "person" }, { label: one.id });
  goOn(`${one.name}${items.length > 1 ? `, ${items.length} pictures` : ""}`);
}

function accept(items) {
  const offered = items.filter((item) => item.proposal !== null);
  for (const id of new Set(offered.map((item) => item.proposal))) {
    give(offered.filter((item) => item.proposal === id), { kind: "label", class: id, by: "proposal" }, { label: id });
  }
  if (offered.length) goOn(offered.length > 1 ? `${offered.length} accepted` : `${nameOf(offered[0].proposal)} accepted`);
  else say("The model proposes nothing here yet.");
}

function skip() {
  const items = targets();
  if (!items.length) return;
  give(items, { kind: "skip" }, { isSkipped: true, label: null });
  goOn("skipped");
}

function add(name) {
  if (targets().length) return label({ id: null, name });
  enqueue({ kind: "class", name, pictures: [], drawn: false });
  say(`new class ${name}`);
}

function goOn(what) {
  const mine = list(), start = startOf(mine), open = pageOf(mine).filter((item) => !item.isDone);
  if (!isMany()) mine.at = Math.min(mine.at + 1, mine.items.length);
  else if (open.length) mine.at = mine.items.indexOf(open.find((item) => mine.items.indexOf(item) > mine.at) ?? open[0]);
  else if (mode === "strangers") Object.assign(mine, { items: [], at: 0, isEnd: false });
  else mine.at = Math.min(start + GRID, mine.items.length);
  show();
  fillAndShow();
  say(`${what}. ${here() ? `Next: ${here().file}. ${offerOf(here())}` : ""}`);
}

function move(step) {
  const mine = list(), last = mine.items.length - (mine.isEnd ? 1 : 0);
  mine.at = Math.max(0, Math.min(mine.at + step, isMany() ? mine.items.length - 1 : last));
  show();
  fillAndShow();
}

function columns() {
  return isMany() ? getComputedStyle($("stage")).gridTemplateColumns.split(" ").length : 1;
}

function movePage(step) {
  if (!isMany() || mode === "strangers") return move(step);
  const mine = list();
  mine.at = Math.max(0, Math.min(startOf(mine) + step * GRID, mine.items.length));
  show();
  fillAndShow();
}

function showTurned(turned) {
  const mine = list();
  turned.pictures.forEach((told) => {
    const known = mine.items.find((item) => item.digest === told.digest);
    if (known) Object.assign(known, told, { isDone: told.label !== null, isSkipped: false, named: undefined });
    else mine.items.splice(mine.at, 0, { ...told, isDone: told.label !== null, isChosen: false });
  });
  if (turned.pictures.length) mine.at = mine.items.findIndex((item) => item.digest === turned.pictures[0].digest);
  show();
  say(turned.what);
  $("note").textContent = turned.what;
}

// --- classes ----------------------------------------------------------------------------------------------------------

function showClasses() {
  const { best } = found();
  const offered = $("search").value ? best : undefined;
  const rows = classes().map((one) => {
    const button = make("button", { type: "button", className: "class" });
    if (one.key) button.append(make("kbd", { textContent: one.key }));
    button.append(make("span", { textContent: one.name }), make("small", { textContent: one.pictures }));
    if (one.key) button.setAttribute("aria-keyshortcuts", one.key);
    button.addEventListener("click", (event) => {
      label(one);
      if (event.detail) $("stage").focus(); // by mouse: the keys are for the pictures again
    });
    const edit = make("button", { type: "button", className: "edit", textContent: "✎", ariaLabel: `rename ${one.name}`, disabled: one.id === null });
    edit.addEventListener("click", () => rename(one));
    return make("li", { className: one === offered ? "offered" : "" }, button, edit);
  });
  const focused = document.activeElement?.closest("#classes li");
  const at = focused ? [...$("classes").children].indexOf(focused) : -1;
  const isEdit = document.activeElement?.classList.contains("edit");
  $("classes").replaceChildren(...rows);
  $("classes").children[at]?.querySelector(isEdit ? ".edit" : ".class").focus();
  if (offered) document.querySelector(".offered").scrollIntoView({ block: "nearest" });
}

const plain = (text) => text.normalize("NFC").trim().toLowerCase();

function found() {
  const typed = plain($("search").value);
  const fits = (test) => classes().find((one) => test(plain(one.name)));
  const exact = fits((name) => name === typed);
  return { typed, exact, best: exact ?? fits((name) => name.startsWith(typed)) ?? fits((name) => name.includes(typed)) };
}

function showMatch() {
  const { typed, exact, best } = found(), name = $("search").value.trim();
  const fresh = `new class ${name}`;
  $("match").textContent = !typed ? "" : exact ? `Enter: ${exact.name}` : best ? `Enter: ${best.name}; Shift Enter: ${fresh}` : `Enter: ${fresh}`;
  showClasses();
}

function searchKey(event) {
  if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
  event.preventDefault();
  const { typed, exact, best } = found(), name = $("search").value.trim();
  $("search").value = "";
  $("stage").focus();
  if (event.key === "Enter" && typed) {
    if (exact || (best && !event.shiftKey)) label(exact ?? best);
    else add(name);
  }
  showMatch();
}

let naming, toName;

function rename(one) {
  naming = one;
  $("name").value = one.name;
  showNaming();
  $("naming").showModal();
  $("name").select();
}

function namesake() {
  return state.classes.find((one) => one.id !== naming.id && plain(one.name) === plain($("name").value));
}

function showNaming() {
  const other = namesake();
  $("rename").textContent = other ? `Merge into ${other.name}` : "Rename";
  $("rename").disabled = !plain($("name").value);
}

function renamed() {
  const name = $("name").value.trim(), other = namesake();
  if (!name) return;
  if (other) enqueue({ kind: "merge", class: naming.id, into: other.id });
  else if (name !== naming.name) enqueue({ kind: "rename", class: naming.id, name });
  $("naming").close();
}

function addUnnamed() {
  const taken = new Set(classes().map((one) => one.name));
  let n = 1;
  while (taken.has(`new ${n}`)) n += 1;
  toName = `new ${n}`;
  add(toName);
}

function nameTheNew() {
  const fresh = toName && state.classes.find((one) => one.name === toName);
  if (!fresh) return;
  toName = undefined;
  rename(fresh);
}

// --- explaining a picture, and answering another one -------------------------------------------------------------------

async function explain() {
  const item = here();
  $("explained").hidden = !isExplaining || !item;
  if ($("explained").hidden || $("explained").dataset.number === String(item.number)) return;
  $("explained").dataset.number = item.number;
  $("explained").replaceChildren(make("p", { className: "soft", textContent: "Explaining …" }));
  let parts;
  try {
    parts = explanation(await ask(`/explained/${item.number}`));
  } catch (error) {
    parts = [make("p", { className: "soft", textContent: reason(error) })];
    delete $("explained").dataset.number;
  }
  if (item === here()) $("explained").replaceChildren(...parts);
}

function explanation(told) {
  const best = told.answers.map((one) => {
    const meter = make("meter", { min: 0, max: 1, value: one.probability, ariaLabel: one.name });
    return make("li", {}, make("span", { textContent: one.name }), meter, make("b", { textContent: `${(100 * one.probability).toFixed(1)} %` }));
  });
  const drawings = told.drawings.map((one) => pane(`/drawing/${one.number}?${state.edition}`, one.caption));
  const near = told.near.map((one) => pane(`/thumbnail/${one.number}?${state.edition}`, one.caption));
  const parts = [make("ol", { className: "best" }, ...best)];
  if (drawings.length) parts.push(make("div", { className: "panes" }, ...drawings));
  if (near.length) parts.push(make("h3", { textContent: "Most alike among those with a label" }), make("div", { className: "panes" }, ...near));
  return [...parts, ...told.notes.map((text) => make("p", { className: "soft", textContent: text }))];
}

function pane(source, caption) {
  return make("figure", {}, image(source, caption), make("figcaption", { textContent: caption }));
}

async function answer(blob) {
  $("answered").replaceChildren(make("p", { textContent: "…" }));
  try {
    const address = await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(new Error("the file cannot be read"));
      reader.readAsDataURL(blob);
    });
    $("answered").replaceChildren(...explanation(await ask("/answer", { picture: address.slice(address.indexOf(",") + 1) })));
  } catch (error) {
    $("answered").replaceChildren(make("p", { textContent: reason(error) }));
  }
}

async function answerFile(file) {
  if (!file) return;
  if (file.size <= SENT) return answer(file);
  try {
    const whole = await createImageBitmap(file);
    const scale = Math.min(1, 1024 / Math.max(whole.width, whole.height));
    const small = make("canvas", { width: Math.ceil(scale * whole.width), height: Math.ceil(scale * whole.height) });
    small.getContext("2d").drawImage(whole, 0, 0, small.width, small.height);
    small.toBlob(answer, "image/jpeg", 0.9);
  } catch {
    $("answered").replaceChildren(make("p", { textContent: "This browser cannot make so large a file smaller: choose one of less than 2.5 MB." }));
  }
}

function paperIsBright() {
  const shown = Object.values(lists).flatMap((one) => one.items).map((item) => item.picture ?? item.thumbnail);
  const known = shown.find((one) => one?.naturalWidth);
  if (!known) return false;
  const look = make("canvas", { width: 8, height: 8 }).getContext("2d");
  look.drawImage(known, 0, 0, 8, 8);
  const levels = look.getImageData(0, 0, 8, 1).data;
  return levels.reduce((sum, level, i) => sum + (i % 4 === 1 ? level : 0), 0) / 8 > 127;
}

function clear() {
  const paper = $("canvas").getContext("2d");
  paper.fillStyle = paperIsBright() ? "#fff" : "#000";
  paper.fillRect(0, 0, 280, 280);
  $("answered").replaceChildren();
}

function draw(event) {
  const canvas = $("canvas"), pen = canvas.getContext("2d"), scale = canvas.width / canvas.clientWidth;
  const at = () => [event.offsetX * scale, event.offsetY * scale];
  if (event.type === "pointerdown") {
    canvas.setPointerCapture(event.pointerId);
    Object.assign(pen, { lineWidth: 22, lineCap: "round", lineJoin: "round", strokeStyle: paperIsBright() ? "#000" : "#fff" });
    pen.beginPath();
    pen.moveTo(...at());
  }
  if (event.type === "pointerup") canvas.toBlob(answer);
  else if (event.buttons) {
    pen.lineTo(...at());
    pen.stroke();
  }
}

// --- keys -----------------------------------------------------------------------------------------------------------------

const ACTIONS = {
  Enter: (event) => accept(event.shiftKey ? pageOf(list()).filter((item) => !item.isDone) : targets()),
  " ": skip,
  ArrowLeft: () => move(-1),
  ArrowRight: () => move(1),
  ArrowUp: () => move(-columns()),
  ArrowDown: () => move(columns()),
  PageUp: () => movePage(-1),
  PageDown: () => movePage(1),
  Escape: () => {
    list().items.forEach((item) => Object.assign(item, { isChosen: false }));
    show();
  },
  u: (event) => enqueue({ kind: event.shiftKey ? "redo" : "undo" }),
  g: toggleGrid,
  x: toggleExplaining,
  "/": () => $("search").focus(),
  "?": () => $("keys").showModal(),
  "+": addUnnamed,
  ".": () => {
    if (here() && isMany()) here().isChosen = !here().isChosen;
    show();
  },
};
const REPEATED = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "PageUp", "PageDown"];

function digit(event) {
  const typed = /^(?:Digit|Numpad)([1-9])$/.exec(event.code); // where digits need Shift, too
  return /^[1-9]$/.test(event.key) ? event.key : typed && !(event.key in ACTIONS) && event.key.length === 1 ? typed[1] : "";
}

function onKey(event) {
  if (event.isComposing || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.matches("input, textarea, select")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) {
    if (key !== "z") return;
    event.preventDefault();
    return void enqueue({ kind: event.shiftKey ? "redo" : "undo" });
  }
  if (["Enter", " "].includes(key) && event.target.matches("button, a, label")) return;
  if (key.length === 1 && key !== " " && !$("single-keys").checked && document.activeElement !== $("stage")) return;
  const number = digit(event);
  const one = classes().find((some) => some.key && some.key === (number || key));
  const action = Object.hasOwn(ACTIONS, key) ? ACTIONS[key] : one && (() => label(one));
  if (!action || (mode === "try" && !"/?".includes(key))) return;
  event.preventDefault();
  if (!event.repeat || REPEATED.includes(key)) action(event);
}

function toggleGrid() {
  wantsGrid = !wantsGrid;
  show();
  fillAndShow();
}

function toggleExplaining() {
  isExplaining = !isExplaining;
  show();
}

function route() {
  const asked = location.hash.slice(1);
  mode = ["strangers", "doubts", "audit", "try"].includes(asked) ? asked : "next";
  if (mode === "try") clear();
  show();
  fillAndShow();
}

const CLICKS = {
  grid: toggleGrid,
  why: toggleExplaining,
  undo: () => enqueue({ kind: "undo" }),
  help: () => $("keys").showModal(),
  before: () => movePage(-1),
  after: () => movePage(1),
  accept: () => accept(targets()),
  skip,
  rename: renamed,
  clear,
  copy: async () => {
    try {
      await navigator.clipboard.writeText($("command").textContent);
      say("copied");
      $("copy").textContent = "Copied";
    } catch {
      getSelection().selectAllChildren($("command"));
      say("selected: copy it");
    }
  },
};

function start() {
  for (const [id, action] of Object.entries(CLICKS)) {
    $(id).addEventListener("click", (event) => {
      action();
      if (event.detail && !document.querySelector("dialog[open]")) $("stage").focus(); // by mouse
    });
  }
  document.querySelectorAll("dialog .close").forEach((button) => button.addEventListener("click", () => button.closest("dialog").close()));
  document.addEventListener("keydown", onKey);
  $("search").addEventListener("input", showMatch);
  $("search").addEventListener("keydown", searchKey);
  $("name").addEventListener("input", showNaming);
  $("name").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) renamed();
  });
  for (const kind of ["pointerdown", "pointermove", "pointerup"]) $("canvas").addEventListener(kind, draw);
  $("file").addEventListener("change", () => answerFile($("file").files[0]));
  for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault()); // else the page is left
  addEventListener("drop", (event) => mode === "try" && answerFile(event.dataTransfer.files[0]));
  $("single-keys").checked = keep((box) => box.getItem("drmm single keys")) !== "no";
  $("single-keys").addEventListener("change", () => keep((box) => box.setItem("drmm single keys", $("single-keys").checked ? "yes" : "no")));
  addEventListener("hashchange", route);
  addEventListener("beforeunload", (event) => {
    if (waiting.size && !keep((box) => box.length)) event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => document.hidden || look());
  setInterval(() => document.hidden || look(), EVERY);
  remember();
  look().then(send).then(() => {
    route();
    $("stage").focus();
  });
}

start();
