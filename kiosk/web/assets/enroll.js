// Enrolling a person: from the kiosk's camera, with hints, or from photos.
import { act, ask, dialog, el, field, notice, toast } from "./dom.js";
import { follow, pictureView } from "./live.js";

const MAX_PHOTO_MIB = 32;

export async function enroll({ session }, known = null) {
  const who = await dialog(known ? `More templates of ${known.name || known.id}` : "Enroll a person", (close) => askWho(close, session, known));
  if (!who) return;
  let enrollment;
  try {
    enrollment = await ask("api/enrollments", { method: "POST", json: who });
  } catch (error) {
    await dialog("Enroll", (close) => [notice(error.message, "error"), el("button", { type: "button", onclick: () => close() }, "Close")]);
    return;
  }
  const forget = () => ask(`api/enrollments/${enrollment.key}`, { method: "DELETE", keepalive: true }).catch(() => null);
  // Who reloads the page can begin again at once.
  window.addEventListener("pagehide", forget);
  const leaving = new AbortController();
  const saved = await dialog(`Enroll ${who.name || who.subject_id}`, (close) => (who.source === "camera" ? fromCamera : fromPhotos)(enrollment.key, close, leaving.signal));
  leaving.abort();
  window.removeEventListener("pagehide", forget);
  if (saved) toast(saved.text);
  else await forget();
}

function askWho(close, session, known) {
  const id = field("Id (letters, digits, . _ -)", { required: true, pattern: "[A-Za-z0-9._\\-]{1,64}", maxlength: 64, autocomplete: "off", value: known?.id ?? "", readonly: known !== null });
  const name = field("Name", { maxlength: 200, autocomplete: "off", value: known?.name ?? "" });
  const consent = field(`Consent: where it is filed${session.consent_needed && !known ? "" : " (if there is one)"}`, { maxlength: 200, autocomplete: "off" });
  const send = (source) => (event) => {
    if (!event.target.form.reportValidity()) return;
    // A name that was left as it was is not sent: it may have been changed elsewhere.
    const changed = name.input.value === name.input.defaultValue ? "" : name.input.value.trim();
    close({ subject_id: id.input.value, name: changed || null, consent: consent.input.value.trim() || null, more: known !== null, source });
  };
  return el("form", { onsubmit: (event) => event.preventDefault() },
    el("div", { class: "row" }, id.label, name.label, consent.label),
    el("div", { class: "row" },
      el("button", { type: "button", onclick: send("camera") }, "With the kiosk's camera"),
      el("button", { type: "button", class: "second", onclick: send("photos") }, "From photos"),
      el("button", { type: "button", class: "second", onclick: () => close() }, "Cancel")));
}

function saveRow(key, close, problem) {
  const save = el("button", { type: "button", disabled: true }, "Save");
  save.addEventListener("click", () => act(save, problem, async () => close(await ask(`api/enrollments/${key}/finish`, { method: "POST", json: {} }))));
  return { save, row: el("p", { class: "row" }, save, el("button", { type: "button", class: "second", onclick: () => close() }, "Cancel")) };
}

function fromPhotos(key, close) {
  const problem = el("div");
  const results = el("ul", { class: "plain", "aria-live": "polite" });
  const { save, row } = saveRow(key, close, problem);
  const files = field("Photos that show this person alone, from the front; three or more in different light are best", { type: "file", accept: "image/*", multiple: true });
  files.input.addEventListener("change", async () => {
    files.input.disabled = true;
    for (const file of files.input.files) {
      const line = el("li", {}, `${file.name}: is looked at …`);
      results.append(line);
      try {
        // Told here: a refusal before the end of an upload reaches no browser.
        if (file.size > MAX_PHOTO_MIB * 1024 * 1024) throw new Error(`${file.name}: larger than ${MAX_PHOTO_MIB} MiB`);
        const answer = await ask(`api/enrollments/${key}/photos?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
        line.replaceChildren(el("span", { class: "good" }, "✓ "), `${file.name}: ${answer.text}`);
        save.disabled = answer.samples === 0;
      } catch (error) {
        line.replaceChildren(el("span", { class: "bad" }, "✗ "), error.message);
      }
    }
    files.input.value = "";
    files.input.disabled = false;
  });
  return [files.label, results, problem, row];
}

/** Shows what it is called with last, each text for so long that it can be read. */
function steadily(place, leastMs = 900) {
  let wanted = "";
  let reading = false;
  const show = (text) => {
    wanted = text;
    if (reading || place.textContent === text) return;
    place.textContent = text;
    reading = true;
    setTimeout(() => { reading = false; show(wanted); }, leastMs);
  };
  return show;
}

function fromCamera(key, close, signal) {
  const view = pictureView();
  const problem = el("div");
  const hint = el("p", { class: "hint", "aria-live": "polite" }, "Look at the kiosk.");
  const showHint = steadily(hint);
  const progress = el("progress", { max: 1, value: 0, "aria-label": "How much of the face has been seen" });
  const poses = el("p", { class: "soft" });
  const { save, row } = saveRow(key, close, problem);
  follow(signal, (header, picture) => view.show(header, picture), view.say);
  (async () => {
    let state = null;
    while (!signal.aborted) {
      try {
        state = await ask(`api/enrollments/${key}?after=${state?.version ?? 0}`, { signal });
        showHint(state.hint);
        Object.assign(progress, { max: state.wanted, value: state.samples });
        poses.textContent = state.missing.length ? `${state.enough ? "better with" : "still needed"}: ${state.missing.join(", ")}` : "";
        save.disabled = !state.enough;
      } catch (error) {
        if (!signal.aborted) problem.replaceChildren(notice(error.message, "error"));
        return;
      }
    }
  })();
  return [view.element, hint, progress, poses, problem, row];
}
