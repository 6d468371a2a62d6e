// Keys press buttons, so that everything works by mouse and by screen reader as well. The state is asked for until it is current.
"use strict";

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("input, select, textarea")) return;
  const pressed = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (pressed) {
    event.preventDefault();
    pressed.click();
  }
});

// One decision is sent once, however long the answer takes.
document.addEventListener("submit", (event) => {
  if (document.body.dataset.sent) event.preventDefault();
  document.body.dataset.sent = "yes";
});

window.addEventListener("pageshow", () => delete document.body.dataset.sent); // Come back to by the browser's own button.

const percent = (share) => `${(100 * share).toFixed(2)} %`;

async function follow() {
  const place = document.querySelector("[data-state]");
  if (!place || place.dataset.state === "current") return;
  let state;
  try {
    const answer = await fetch("/state");
    if (!answer.ok) {
      place.textContent = await answer.text();
      return;
    }
    state = await answer.json();
  } catch {
    place.textContent = "The server has stopped. Start upweight review again: no decision is lost.";
    return;
  }
  if (state.current || state.trouble) {
    place.dataset.state = "current";
    place.textContent = state.trouble || `${percent(state.first)} at first, ${percent(state.accuracy)} now`;
  } else {
    setTimeout(follow, 500);
  }
}
follow();
