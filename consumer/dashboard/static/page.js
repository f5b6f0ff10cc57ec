// Fetches the page every two seconds and updates what has changed. The page is complete without this.
"use strict";

const PERIOD_MS = 2000;
const TIMEOUT_MS = 5000;
const connection = document.getElementById("connection");
const pause = document.getElementById("pause");
let paused = false;
let lostAt = null;

async function update() {
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    answered();
  } catch {
    lost();
  }
}

function show(fresh) {
  document.title = fresh.title;
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(old.id);
    if (now && !isBeingSelected(old)) replace(old, now);
  }
  document.querySelectorAll("time").forEach(localTime);
}

// Keeps what the reader has done: open details, scrolled tables, and the focus, which follows its element's id.
function replace(old, now) {
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const focusedId = focused?.id;
  morph(old, now);
  if (!focusedId || focused.id === focusedId) return;
  const moved = document.getElementById(focusedId) ?? focused.closest(".scroll");
  moved?.focus({ preventScroll: true });
}

// Makes one node equal to another without replacing the parts that already are.
function morph(old, now) {
  if (old.isEqualNode(now)) return;
  if (old.nodeName !== now.nodeName) {
    old.replaceWith(document.importNode(now, true));
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = now.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!now.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of now.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const [before, after] = [[...old.childNodes], [...now.childNodes]];
  after.forEach((child, i) => (i < before.length ? morph(before[i], child) : old.append(document.importNode(child, true))));
  before.slice(after.length).forEach((child) => child.remove());
}

// A time is shown in UTC; its tooltip says the same in the reader's time zone.
function localTime(element) {
  element.title = new Date(element.dateTime).toLocaleString(undefined, { dateStyle: "full", timeStyle: "long" });
}

function isBeingSelected(section) {
  const selection = document.getSelection();
  return !selection.isCollapsed && section.contains(selection.anchorNode);
}

function answered() {
  if (lostAt === null) return;
  lostAt = null;
  document.body.classList.remove("lost");
  connection.textContent = "The monitor answers again.";
}

function lost() {
  if (lostAt !== null) return;
  lostAt = new Date();
  document.body.classList.add("lost");
  const time = lostAt.toISOString().slice(0, 19).replace("T", " ");
  connection.textContent = `✗ The monitor has not answered since ${time} UTC. This page shows what it said before.`;
}

function togglePause() {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
}

async function run() {
  if (!paused && !document.hidden) await update();
  setTimeout(run, PERIOD_MS);
}

document.querySelectorAll("time").forEach(localTime);
if (document.querySelector("[data-live]")) {
  pause.hidden = false;
  pause.addEventListener("click", togglePause);
  setTimeout(run, PERIOD_MS);
}
