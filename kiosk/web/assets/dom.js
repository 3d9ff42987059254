// What every page is made of. Text goes in as text, never as markup: names are other people's input.

/** An element: attributes, then children (strings, elements, or nothing). `on*` are listeners. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Ask the kiosk. Throws an Error whose message can be shown. */
export async function ask(path, { method = "GET", json, body, signal, keepalive } = {}) {
  let response;
  try {
    response = await fetch(path, {
      method,
      signal,
      keepalive,
      body: json === undefined ? body : JSON.stringify(json),
      headers: json === undefined ? {} : { "Content-Type": "application/json" },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the kiosk's page does not answer; is `kiosk web` still running?");
  }
  if (response.headers.get("Content-Type") === "application/octet-stream" && response.ok) return response.arrayBuffer();
  const answer = await response.json().catch(() => ({ error: `HTTP ${response.status}` }));
  if (response.ok) return answer;
  if (response.status === 401 && path !== "api/session") window.dispatchEvent(new Event("logged-out"));
  throw Object.assign(new Error(answer.error ?? `HTTP ${response.status}`), { status: response.status });
}

/** A table that scrolls by itself on a narrow screen. `columns`: [title, cell function, class]; a title in brackets is
 * only for who listens to the table. */
export function table(caption, columns, rows, rowClass = () => null) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {},
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, columns.map(([title, , kind]) => el("th", { scope: "col", class: kind }, Array.isArray(title) ? el("span", { class: "hidden" }, title) : title)))),
      el("tbody", {}, rows.map((row) =>
        el("tr", { class: rowClass(row) }, columns.map(([, cell, kind]) => el("td", { class: kind }, cell(row) ?? ""))))),
    ));
}

export function field(label, attributes = {}) {
  const input = el("input", attributes);
  return { input, label: el("label", {}, label, input) };
}

export function notice(text, kind = "") {
  return el("p", { class: `notice ${kind}`, role: kind === "error" ? "alert" : null }, text);
}

let forgetting;
export function toast(text) {
  const place = document.getElementById("toast");
  place.textContent = text;
  clearTimeout(forgetting);
  forgetting = setTimeout(() => { place.textContent = ""; }, 6000);
}

/** A modal dialog; closes on Escape. `build(close)` returns its content. Resolves with what it was closed with. */
export function dialog(title, build) {
  return new Promise((resolve) => {
    const box = el("dialog", { "aria-labelledby": "dialog-title" });
    let result;
    const close = (value) => { result = value; box.close(); };
    box.append(el("h2", { id: "dialog-title" }, title), ...[build(close)].flat().filter(Boolean));
    box.addEventListener("close", () => { box.remove(); resolve(result); });
    document.body.append(box);
    box.showModal();
  });
}

/** Run an action of a button: it waits, and what goes wrong is shown in `place`. */
export async function act(button, place, work) {
  button.disabled = true;
  place.replaceChildren();
  try {
    return await work();
  } catch (error) {
    place.replaceChildren(notice(error.message, "error"));
    return undefined;
  } finally {
    button.disabled = false;
  }
}

let timezone = "UTC";
export function useTimezone(name) { timezone = name; }

/** A moment in the site's time zone. */
export function time(utc, withDate = true) {
  if (!utc) return "–";
  const parts = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: timezone };
  if (withDate) Object.assign(parts, { year: "numeric", month: "2-digit", day: "2-digit" });
  return new Intl.DateTimeFormat("sv-SE", parts).format(new Date(utc));
}

export function words(name) { return name.replaceAll("_", " "); }

export function person(id, name) { return name && name !== id ? `${name} (${id})` : id; }

export function score(value, digits = 2) { return typeof value === "number" ? value.toFixed(digits) : "–"; }
