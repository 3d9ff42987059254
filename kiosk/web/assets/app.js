// Which page is shown, and whether somebody has logged in.
import { act, ask, el, field, useTimezone } from "./dom.js";
import { showAttendance, showRejected } from "./attendance.js";
import { showHealth } from "./health.js";
import { showLive } from "./live.js";
import { showPeople } from "./people.js";

const PAGES = { live: showLive, people: showPeople, attendance: showAttendance, rejected: showRejected, health: showHealth };
const main = document.getElementById("main");
const nav = document.getElementById("nav");
let session = { logged_in: false };
let leaving = new AbortController();

async function start() {
  session = await ask("api/session").catch((error) => ({ logged_in: false, error: error.message }));
  if (session.logged_in) useTimezone(session.timezone);
  document.getElementById("place").textContent = session.logged_in ? `${session.site} / ${session.device}` : "Attendance kiosk";
  document.getElementById("leave").hidden = !session.password;
  nav.hidden = !session.logged_in;
  await show();
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  if (!session.logged_in) {
    showLogin();
    return;
  }
  const name = location.hash.slice(1).split("/")[0];
  const page = PAGES[name] ? name : "live";
  for (const link of nav.querySelectorAll("a")) {
    if (link.hash === `#${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${page[0].toUpperCase()}${page.slice(1)} · ${session.device} · Attendance kiosk`;
  main.replaceChildren();
  await PAGES[page](main, { session, signal: leaving.signal });
}

function showLogin() {
  document.title = "Log in · Attendance kiosk";
  const password = field("Password", { type: "password", autocomplete: "current-password", required: true, name: "password" });
  const problem = el("div");
  const button = el("button", {}, "Log in");
  const form = el("form", {
    class: "card",
    onsubmit: (event) => {
      event.preventDefault();
      act(button, problem, async () => {
        await ask("api/session", { method: "POST", json: { password: password.input.value } });
        await start();
      });
    },
  }, el("h1", {}, "Log in"), problem, el("div", { class: "row" }, password.label, button));
  main.replaceChildren(form);
  if (session.error) problem.append(session.error);
  password.input.focus();
}

document.getElementById("leave").addEventListener("click", async () => {
  await ask("api/session", { method: "DELETE" }).catch(() => null);
  await start();
});
window.addEventListener("hashchange", () => { show().then(() => { main.focus({ preventScroll: true }); scrollTo(0, 0); }); });
window.addEventListener("logged-out", start);
start();
