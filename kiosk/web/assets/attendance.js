// The attendance log and the rejected attempts.
import { act, ask, dialog, el, field, notice, person, score, table, time, words } from "./dom.js";

export async function showAttendance(main, { session, signal }) {
  const today = session.today;
  const since = field("From", { type: "date", value: today });
  const until = field("To", { type: "date", value: today });
  const subject = field("Id of a person", { type: "search", placeholder: "everybody", autocomplete: "off" });
  const list = el("div", { "aria-live": "polite" });
  const exports = ["csv", "json"].map((kind) => [kind, el("a", { class: "button second", download: true }, `Export ${kind.toUpperCase()}`)]);
  const load = async () => {
    const filter = new URLSearchParams({ since: since.input.value, until: until.input.value, subject: subject.input.value.trim() });
    for (const [kind, link] of exports) link.href = `api/events.${kind}?${filter}`;
    try {
      const { events, found } = await ask(`api/events?${filter}`, { signal });
      list.replaceChildren(found > events.length ? notice(`The newest ${events.length} of ${found} are shown; the export has them all.`) : "",
        events.length ? eventTable(events, load) : el("p", {}, "Nobody in this time."));
    } catch (error) {
      if (!signal.aborted) list.replaceChildren(notice(error.message, "error"));
    }
  };
  const form = el("form", { class: "row", onsubmit: (event) => { event.preventDefault(); load(); }, onchange: load },
    since.label, until.label, subject.label, el("button", {}, "Show"), exports.map(([, link]) => link),
    el("button", { type: "button", class: "second", onclick: async () => { if (await add(today)) await load(); } }, "Add an event"));
  main.append(el("h1", {}, "Attendance"), form, list);
  await load();
}

function eventTable(events, reload) {
  const shown = [...events].sort((a, b) => (a.occurred_at < b.occurred_at ? 1 : -1));
  const doubt = shown.some((event) => !event.clock_synchronized) ? "; ? after a time: the clock was not known to be right" : "";
  return table(`Events, newest first (${shown.length})${doubt}`, [
    ["No.", (event) => event.seq, "number"],
    ["Time", (event) => `${time(event.occurred_at)}${event.clock_synchronized ? "" : " ?"}`, "time"],
    ["Event", (event) => words(event.event_type)],
    ["Person", (event) => person(event.subject_id, event.name)],
    ["How", (event) => (event.score === null ? event.method : `score ${score(event.score)}`)],
    ["Sent", (event) => event.delivery ?? "not sent"],
    ["Notes", (event) => remark(event)],
    [["Actions"], (event) => [why(event, `${words(event.event_type)} of ${event.subject_id}`), " ", voidable(event) ? voidButton(event, reload) : null]],
  ], shown, (event) => (event.voided_by === null ? null : "void"));
}

function remark(event) {
  const notes = [];
  if (event.voids !== null) notes.push(`voids event ${event.voids}`);
  else if (event.recorded_at !== null) notes.push("added by hand");
  if (event.voided_by !== null) notes.push(`void: see event ${event.voided_by}`);
  if (event.reason) notes.push(event.reason);
  return notes.join("; ");
}

function voidable(event) { return event.voids === null && event.voided_by === null && event.event_type !== "time_correction"; }

function voidButton(event, reload) {
  const about = `${words(event.event_type)} of ${event.subject_id} at ${time(event.occurred_at)}`;
  return el("button", { type: "button", class: "link", "aria-label": `Void: ${about}`, onclick: async () => {
    const done = await dialog(`Void: ${about}`, (close) => reasonForm(close, "Void", [], (reason) => ask(`api/events/${event.seq}/void`, { method: "POST", json: { reason } })));
    if (done) await reload();
  } }, "Void");
}

/** Nothing is edited: what is added or voided is an event of its own, and goes to the audit log. */
function add(today) {
  return dialog("Add an event that the kiosk did not record", (close) => {
    const id = field("Id of the person", { required: true, autocomplete: "off" });
    const kind = el("select", {}, ["check_in", "check_out", "break_start", "break_end"].map((name) => el("option", { value: name }, words(name))));
    // Text: a browser's own field takes no offset, which the hour that comes twice needs.
    const at = field(`When, like ${today}T08:00 (the site's time) or ${today}T08:00+01:00`, { required: true, maxlength: 40, autocomplete: "off", spellcheck: "false", value: `${today}T08:00` });
    return reasonForm(close, "Add", [id.label, el("label", {}, "What", kind), at.label], (reason) =>
      ask("api/events", { method: "POST", json: { subject_id: id.input.value.trim(), event_type: kind.value, at: at.input.value.trim(), reason } }));
  });
}

function reasonForm(close, title, fields, send) {
  const reason = field("Why, in a few words", { required: true, maxlength: 200, autocomplete: "off" });
  const problem = el("div");
  const button = el("button", {}, title);
  return [problem, el("form", { onsubmit: (event) => {
    event.preventDefault();
    act(button, problem, async () => { await send(reason.input.value); close(true); });
  } }, el("div", { class: "row" }, fields, reason.label), el("div", { class: "row" }, button, el("button", { type: "button", class: "second", onclick: () => close() }, "Cancel")))];
}

export async function showRejected(main, { signal }) {
  main.append(el("h1", {}, "Rejected attempts"),
    el("p", { class: "soft" }, "Faces and codes that led to no check-in. No pictures are kept; scores and measures are, for store.rejected_days."));
  try {
    const { events } = await ask("api/rejections", { signal });
    main.append(events.length ? table(`Rejected, newest first (${events.length})`, [
      ["Time", (event) => time(event.occurred_at), "time"],
      ["Reason", (event) => words(event.reason)],
      ["Best score", (event) => score(event.score), "number"],
      ["Needed", (event) => score(event.threshold), "number"],
      [["Reasons"], (event) => why(event, words(event.reason))],
    ], events) : el("p", {}, "None."));
  } catch (error) {
    if (!signal.aborted) main.append(notice(error.message, "error"));
  }
}

function why(event, about) {
  return el("button", { type: "button", class: "link", "aria-label": `Why: ${about} at ${time(event.occurred_at)}`, onclick: () => explain(event.event_id) }, "Why?");
}

async function explain(id) {
  let decision;
  try {
    decision = await ask(`api/decisions/${id}`);
  } catch (error) {
    await dialog("Why", (close) => [notice(error.message, "error"), el("button", { type: "button", onclick: () => close() }, "Close")]);
    return;
  }
  await dialog(`Why: ${words(decision.event_type)} at ${time(decision.occurred_at)}`, (close) => [
    el("p", {}, decision.explanation ?? `entered by hand by ${decision.by ?? "nobody the audit log knows of"}: ${decision.reason ?? "the reason is not kept"}`),
    decision.voided ? el("p", { class: "bad" }, `Void: event ${decision.voided.seq} says so (${decision.voided.reason ?? "the reason is not kept"}).`) : null,
    decision.advice ? el("p", {}, `What to do: ${decision.advice}`) : null,
    decision.threshold_source ? el("p", { class: "soft" }, decision.threshold_source) : null,
    decision.candidates?.length ? table("Candidates", [["Id", (one) => one.subject_id], ["Score", (one) => score(one.score, 3), "number"]], decision.candidates) : null,
    decision.frame_evidence?.length ? table("Frames that decided", [
      ["Time", (one) => (one.offset_s === null ? "" : `${one.offset_s.toFixed(2)} s`), "number"],
      ["Weight", (one) => (one.weight === null ? "" : `${Math.round(one.weight * 100)} %`), "number"],
      ["Best", (one) => (one.candidates.length ? `${score(one.candidates[0].score, 3)} ${one.candidates[0].subject_id}` : "")],
    ], decision.frame_evidence) : null,
    el("p", {}, el("button", { type: "button", onclick: () => close() }, "Close")),
  ].filter(Boolean));
}
