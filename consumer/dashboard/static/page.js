// Fetches the page again every two seconds and puts in what has changed. The page is complete without this.
"use strict";

const PERIOD_MS = 2000;
const TIMEOUT_MS = 5000;
const connection = document.getElementById("connection");
const pause = document.getElementById("pause");
let paused = false;
let lostAt = null;

async function update() {
  try {
    const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    found();
  } catch {
    lost();
  }
}

function show(fresh) {
  document.title = fresh.title;
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(old.id);
    if (!now || isBeingSelected(old)) continue;
    for (const details of old.querySelectorAll("details[open]")) {
      now.querySelector(`#${CSS.escape(details.id)}`)?.setAttribute("open", "");
    }
    if (old.isEqualNode(now)) continue;
    replace(old, document.importNode(now, true));
  }
}

// Keeps what the reader has done: where the focus is, and how far a table was scrolled.
function replace(old, now) {
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const focusedId = focused?.id || focused?.parentElement?.id;
  const scrolled = [...old.querySelectorAll(".scroll")].map((box) => [box.id, box.scrollLeft, box.scrollTop]);
  old.replaceWith(now);
  for (const [id, left, top] of scrolled) document.getElementById(id)?.scrollTo(left, top);
  if (focusedId) {
    const place = document.getElementById(focusedId);
    (place?.matches("details") ? place.querySelector("summary") : place)?.focus({ preventScroll: true });
  }
}

function isBeingSelected(section) {
  const selection = document.getSelection();
  return !selection.isCollapsed && section.contains(selection.anchorNode);
}

function found() {
  if (lostAt === null) return;
  lostAt = null;
  document.body.classList.remove("lost");
  connection.textContent = "The monitor answers again.";
}

function lost() {
  if (lostAt !== null) return;
  lostAt = new Date();
  document.body.classList.add("lost");
  const time = lostAt.toISOString().slice(11, 19);
  connection.textContent = `✗ The monitor has not answered since ${time} UTC. What stands here is from before.`;
}

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
});

async function run() {
  if (!paused && !document.hidden) await update();
  setTimeout(run, PERIOD_MS);
}

setTimeout(run, PERIOD_MS);
