// Who is enrolled.
import { act, ask, dialog, el, field, notice, table, time, toast, words } from "./dom.js";
import { enroll } from "./enroll.js";

export async function showPeople(main, context) {
  const search = field("Search", { type: "search", placeholder: "id or name", autocomplete: "off" });
  const list = el("div", { "aria-live": "polite" });
  const load = async () => {
    try {
      const { subjects, found, total } = await ask(`api/subjects?search=${encodeURIComponent(search.input.value)}`, { signal: context.signal });
      list.replaceChildren(
        found > subjects.length ? notice(`${subjects.length} of ${found} are shown: search for more of the name.`) : "",
        found === 0 ? el("p", {}, total === 0 ? "Nobody is enrolled yet." : "Nobody enrolled has that in id or name.") : subjectTable(subjects, context, load));
    } catch (error) {
      if (!context.signal.aborted) list.replaceChildren(notice(error.message, "error"));
    }
  };
  let waiting;
  search.input.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(load, 250); });
  main.append(el("h1", {}, "People"),
    el("div", { class: "row" }, search.label,
      el("button", { type: "button", onclick: async () => { await enroll(context); await load(); } }, "Enroll a person")),
    list, galleryHealth(context));
  await load();
}

/** Looked at when it is asked for: with thousands of templates that takes seconds. */
function galleryHealth({ signal }) {
  const found = el("div", { "aria-live": "polite" });
  const button = el("button", { type: "button", class: "second", onclick: () => act(button, found, async () => {
    const { findings, notes, subjects, templates } = await ask("api/gallery", { signal });
    found.replaceChildren(
      el("p", {}, `${subjects} people, ${templates} templates. ${findings.length ? "" : "Nothing is wrong, as far as could be looked."}`),
      ...notes.map((note) => el("p", { class: "soft" }, note)),
      ...(findings.length ? [table(`Findings, the urgent ones first (${findings.length})`, [
        ["", (one) => el("span", { class: one.urgent ? "bad" : "soft" }, one.urgent ? "urgent" : "better")],
        ["Id", (one) => one.subject_id],
        ["What", (one) => one.message],
        ["What to do", (one) => one.steps.map((step) => el("div", {}, el("code", {}, step.command), step.when ? ` ${step.when}` : ""))],
      ].map(([title, ...rest]) => [title || ["Weight"], ...rest]), findings)] : []));
  }) }, "Look for poor templates");
  return el("section", { class: "card" }, el("h2", {}, "Gallery health"), button, found);
}

function subjectTable(subjects, context, reload) {
  return table(`People (${subjects.length})`, [
    ["Name", (subject) => el("button", { type: "button", class: "link", onclick: async () => { await details(subject.subject_id, context); await reload(); } }, subject.name || subject.subject_id)],
    ["Id", (subject) => subject.subject_id],
    ["Templates", (subject) => subject.templates, "number"],
    ["Last event", (subject) => (subject.last_at ? time(subject.last_at) : "never"), "time"],
    [["State"], (subject) => state(subject)],
  ], subjects);
}

function state(subject) {
  const codes = subject.codes.map((code) => (code.kind === "pin" ? "PIN" : "badge"));
  if (subject.recognized === false && subject.templates > 0) return el("span", { class: "bad" }, "not recognized");
  return codes.length ? codes.join(", ") : "";
}

async function details(id, context) {
  let subject;
  try {
    subject = await ask(`api/subjects/${encodeURIComponent(id)}`);
  } catch (error) {
    await dialog(id, (close) => [notice(error.message, "error"), el("button", { type: "button", onclick: () => close() }, "Close")]);
    return;
  }
  const next = await dialog(subject.name || id, (close) => {
    const name = field("Name", { value: subject.name ?? "", maxlength: 200, required: true });
    const problem = el("div");
    const save = el("button", { class: "second" }, "Rename");
    return [
      problem,
      el("form", { class: "row", onsubmit: (event) => {
        event.preventDefault();
        act(save, problem, async () => {
          await ask(`api/subjects/${encodeURIComponent(id)}`, { method: "PATCH", json: { name: name.input.value } });
          toast(`${id} is now ${name.input.value}`);
          close();
        });
      } }, name.label, save),
      el("dl", {}, [
        ["id", id], ["enrolled", time(subject.created_at)], ["last event", subject.last_event ? subject.last_event.replace(/(.*) at (.*)/, (_, kind, at) => `${words(kind)}, ${time(at)}`) : "none"],
        ["consent", subject.consent_reference ? `${subject.consent_reference}${subject.consent_until ? `, until ${subject.consent_until}` : ""}` : "none on record"],
        ["codes", subject.codes.map((code) => (code.kind === "pin" ? `PIN with number ${code.number}` : "badge")).join(", ") || "none"],
      ].flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, value)])),
      subject.templates.length ? table("Templates, as they were when they were made", [
        ["Made", (one) => time(one.created_at), "time"],
        ["Between the eyes", (one) => pixels(one.quality?.eye_distance_px), "number"],
        ["Sharpness", (one) => figure(one.quality?.sharpness), "number"],
        ["Brightness", (one) => figure(one.quality?.brightness), "number"],
        ["Turned", (one) => figure(one.quality?.yaw, 2), "number"],
        [["Notes"], (one) => (one.compared === false ? `of another model: ${one.model}` : "")],
      ], subject.templates) : el("p", {}, "No templates: recognized by code only."),
      el("p", { class: "row" },
        el("button", { type: "button", class: "second", onclick: () => close("more") }, "Add photos"),
        el("button", { type: "button", class: "danger", onclick: () => close("remove") }, "Remove …"),
        el("button", { type: "button", class: "second", onclick: () => close() }, "Close")),
    ];
  });
  if (next === "remove") await remove(subject);
  if (next === "more") await enroll(context, { id, name: subject.name });
}

function pixels(value) { return typeof value === "number" ? `${Math.round(value)} px` : "–"; }

function figure(value, digits = 0) { return typeof value === "number" ? value.toFixed(digits) : "–"; }

async function remove(subject) {
  const id = subject.subject_id;
  const receipt = await dialog(`Remove ${subject.name || id}?`, (close) => {
    const typed = field(`Type ${id} to confirm`, { autocomplete: "off", required: true });
    const problem = el("div");
    const button = el("button", { class: "danger" }, "Erase for good");
    return [
      el("p", {}, "Name, templates and codes are erased, also from backups. There is no way back. Attendance stays under the bare id."),
      problem,
      el("form", { class: "row", onsubmit: (event) => {
        event.preventDefault();
        act(button, problem, async () => close(await ask(`api/subjects/${encodeURIComponent(id)}`, { method: "DELETE", json: { confirmed: typed.input.value } })));
      } }, typed.label, button, el("button", { type: "button", class: "second", onclick: () => close() }, "Keep")),
    ];
  });
  if (receipt) {
    await dialog("Receipt", (close) => [
      el("p", { class: receipt.complete ? "good" : "bad" }, receipt.complete
        ? `${id} erased at ${time(receipt.erased_at)}: ${receipt.templates_erased} templates erased, ${receipt.attendance_kept} events kept without name.`
        : receipt.text),
      receipt.templates_erased ? el("p", {}, "The key of the templates changes with this: who keeps a copy of the key file copies it again.") : null,
      el("p", { class: "soft" }, `The kiosk keeps this receipt, ${receipt.receipt_id}; \`kiosk privacy report --json\` lists it.`),
      el("button", { type: "button", onclick: () => close() }, "Close"),
    ]);
  }
}
