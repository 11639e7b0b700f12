// What pages can do better with JavaScript; each of them is whole without it.
"use strict";

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  });
}

// "/" leads to the search, Escape closes menus.
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    document.querySelector(".search input")?.focus();
  }
  if (event.key === "Escape") {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  }
});
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

// A live part is fetched anew when the server says that something has changed.
const live = document.getElementById("live");
if (live?.dataset.live && window.EventSource) {
  const events = new EventSource(live.dataset.live);
  events.addEventListener("change", async () => {
    const reply = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!reply.ok) return;
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    const fresh = page.getElementById("live");
    if (fresh) live.replaceChildren(...fresh.childNodes);
  });
  // A log grows at its end, and stays there for who reads there.
  const log = document.getElementById("log");
  if (log) log.scrollTop = log.scrollHeight;
  events.addEventListener("log", (event) => {
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 48;
    log.append(JSON.parse(event.data));
    if (follows) log.scrollTop = log.scrollHeight;
  });
  events.addEventListener("end", () => events.close());
  addEventListener("pagehide", () => events.close());
}

// A refused form was shown at the address that took it: to look again is no new attempt.
const from = document.querySelector("#fault ~ input[name=from]")?.value;
if (from) history.replaceState(null, "", from);
