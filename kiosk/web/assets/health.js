// How the kiosk is.
import { ask, el, notice, time, words } from "./dom.js";

const EVERY_MS = 5000;
const SVG = "http://www.w3.org/2000/svg";

export async function showHealth(main, { signal }) {
  const place = el("div");
  main.append(el("h1", {}, "Health"), place);
  while (!signal.aborted) {
    try {
      place.replaceChildren(...describe(await ask("api/health", { signal })));
    } catch (error) {
      if (signal.aborted) return;
      place.replaceChildren(notice(error.message, "error"));
    }
    await new Promise((resolve) => { const timer = setTimeout(resolve, EVERY_MS); signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }); });
  }
}

function describe({ running, fault, outbox, health, history, broker }) {
  if (!health) {
    return [notice(running ? `The kiosk runs, and cannot be asked at the moment. ${fault}` : fault, running ? "" : "error"), card("Outbox", [["waiting", outbox.pending], ["set aside", outbox.parked], ["last error", outbox.last_error]])];
  }
  // A kiosk that was started before an upgrade does not tell of its board.
  const board = health.board ?? { undervoltage: null, throttled: null, disk_errors: null, wear_percent: null };
  const problems = health.problems.map((one) => notice(`${words(one.part)}: ${one.what}`, "error"));
  return [
    ...(problems.length ? problems : [el("p", { class: "good" }, "All is well.")]),
    el("div", { class: "cards" },
      card("Camera", [["state", health.camera.fault ?? "delivers pictures"], ["frames a second", rate(health.frames)], ["last usable picture", health.camera.last_frame_age_s === null ? null : `${health.camera.last_frame_age_s} s ago`], ["opened again", health.camera.reconnects], ["stalls", health.camera.stalls]]),
      card("Recognition", [["median", ms(health.frames.p50_ms)], ["95 % within", ms(health.frames.p95_ms)], ["frames", health.frames.processed]]),
      card("Computer", [["temperature", health.temperature_c === null ? null : `${health.temperature_c.toFixed(1)} °C`], ["power", board.undervoltage === null ? null : board.undervoltage ? "too weak" : board.undervoltage_seen ? "was too weak" : "good"], ["slowed down", board.throttled === null ? null : board.throttled ? "yes" : "no"], ["disk errors", board.disk_errors], ["storage worn", board.wear_percent === null ? null : `${board.wear_percent} %`]]),
      card("Broker and outbox", [["broker", broker], ["waiting", health.outbox.pending], ["set aside", health.outbox.parked], ["oldest waiting", health.outbox.oldest_unsent_at ? time(health.outbox.oldest_unsent_at) : "none"], ["last error", outbox.last_error ?? "none"], ["last number", health.outbox.last_seq]]),
      card("Store and clock", [["state", health.store.fault ?? "check-ins are recorded"], ["free", health.store.free_mib < 0 ? null : `${health.store.free_mib} MiB`], ["last backup", time(health.store.last_backup_at)], ["clock", health.clock_synchronized ? "follows a time server" : "not known to follow a time server"], ["up for", hours(health.uptime_s)]]),
      card("Decisions since the start", Object.entries(health.decisions).map(([name, count]) => [words(name), count]))),
    plot(history),
  ];
}

function card(title, pairs) {
  return el("section", { class: "card" }, el("h2", {}, title),
    el("dl", {}, pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, `${value ?? "not known"}`)])));
}

function rate({ per_s, idle }) { return idle ? `${per_s ?? 0} (nobody is there: few are looked at)` : per_s; }

function ms(value) { return value === null ? null : `${value} ms`; }

function hours(seconds) {
  const minutes = Math.floor(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`;
}

/** From picture to decision, a point a minute. */
function plot(history) {
  const points = (history ?? []).filter((one) => one.p95_ms !== null);
  const section = el("section", { class: "card" }, el("h2", {}, "From the picture to the decision, the last hour"));
  if (points.length < 2) {
    section.append(el("p", { class: "soft" }, "A point a minute: come back in two."));
    return section;
  }
  const width = 640, height = 180, left = 44, bottom = 24;
  const top = Math.max(...points.map((one) => one.p95_ms)) * 1.15;
  const x = (index) => left + (index / (points.length - 1)) * (width - left - 8);
  const y = (value) => height - bottom - (value / top) * (height - bottom - 8);
  const newest = points[points.length - 1];
  const label = `Median ${newest.p50_ms} ms and 95th percentile ${newest.p95_ms} ms now; highest 95th percentile ${Math.max(...points.map((one) => one.p95_ms))} ms`;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img", "aria-label": label });
  for (const share of [0, 0.5, 1]) {
    const value = (top / 1.15) * share;
    svg.append(shape("line", { x1: left, x2: width, y1: y(value), y2: y(value), class: "grid" }), shape("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, `${Math.round(value)} ms`));
  }
  for (const name of ["p50", "p95"]) {
    svg.append(shape("polyline", { class: name, points: points.map((one, index) => `${x(index)},${y(one[`${name}_ms`])}`).join(" ") }));
  }
  svg.append(shape("text", { x: left, y: height - 6 }, time(points[0].at, false)), shape("text", { x: width - 8, y: height - 6, "text-anchor": "end" }, time(newest.at, false)));
  section.append(svg, el("p", { class: "soft" }, "Solid: the median. Dashed: 95 of 100 frames are faster."));
  return section;
}

function shape(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}
