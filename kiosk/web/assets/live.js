// What the camera sees, with the decision as it is made.
import { ask, el, person, score, time, words } from "./dom.js";

const COLOURS = { identified: "#35d07f", rejected: "#ffb347", unknown: "#ff6b6b" };
const PATIENCE_MS = 2000;

export async function showLive(main, { signal }) {
  const view = pictureView();
  const now = el("ul", { class: "plain", "aria-label": "Faces in the picture" });
  const recent = el("ul", { class: "plain" });
  main.append(el("h1", {}, "Live"),
    el("div", { class: "split" }, view.element,
      el("div", {},
        el("section", { class: "card" }, el("h2", {}, "Now"), now),
        el("section", { class: "card" }, el("h2", {}, "Just recorded"), recent))),
    el("p", { class: "soft" }, "Pictures are shown while this page is open, and stored nowhere."));
  let shown = "";
  await follow(signal, (header, picture) => {
    view.show(header, picture);
    const faces = header.faces.map((face) => faceWords(face));
    if (faces.join("\n") !== shown || now.childElementCount === 0) {
      shown = faces.join("\n");
      now.replaceChildren(...(faces.length ? faces : ["Nobody."]).map((line) => el("li", {}, line)));
    }
    const outcomes = [...header.outcomes].reverse();
    if (recent.dataset.newest !== (outcomes[0]?.event_id ?? "none")) {
      recent.dataset.newest = outcomes[0]?.event_id ?? "none";
      recent.replaceChildren(...outcomes.map(outcomeLine), ...(outcomes.length ? [] : [el("li", {}, "Nothing yet.")]));
    }
  }, view.say);
}

/** Ask for one picture after the other until `signal` says that the page is left. */
export async function follow(signal, show, say) {
  let after = null;
  while (!signal.aborted) {
    try {
      const bytes = await ask(`api/live${after === null ? "" : `?after=${after}`}`, { signal });
      const length = new DataView(bytes).getUint32(0);
      const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
      if (header.index !== null) after = header.index;
      const picture = bytes.byteLength > 4 + length ? new Blob([new Uint8Array(bytes, 4 + length)], { type: "image/jpeg" }) : null;
      await show(header, picture === null ? null : await createImageBitmap(picture));
    } catch (error) {
      if (signal.aborted) return;
      after = null;
      say(error.message);
      await new Promise((resolve) => setTimeout(resolve, PATIENCE_MS));
    }
  }
}

/** The picture with its boxes. */
export function pictureView() {
  const canvas = el("canvas", { role: "img", "aria-label": "The camera's picture" });
  const words_ = el("p", {}, "Waiting for the first picture …");
  return {
    element: el("div", { class: "picture" }, canvas, words_),
    say: (text) => { words_.textContent = text; canvas.width = canvas.width; },
    show(header, picture) {
      words_.textContent = header.fault ? `No pictures: ${header.fault}` : "";
      if (picture === null) return;
      if (canvas.width !== picture.width || canvas.height !== picture.height) Object.assign(canvas, { width: picture.width, height: picture.height });
      const paint = canvas.getContext("2d");
      paint.drawImage(picture, 0, 0);
      picture.close();
      const scale = canvas.width / header.width;
      for (const face of header.faces) drawFace(paint, face, scale);
    },
  };
}

function drawFace(paint, face, scale) {
  const [x, y, w, h] = face.box.map((value) => value * scale);
  const colour = COLOURS[face.verdict] ?? "#fff";
  paint.lineWidth = 3;
  paint.strokeStyle = colour;
  paint.strokeRect(x, y, w, h);
  const label = face.verdict === "identified" ? `${face.name ?? face.subject_id} ${score(face.score)}` : words(face.reason);
  paint.font = "600 15px system-ui, sans-serif";
  const width = paint.measureText(label).width + 10;
  const top = y > 24 ? y - 22 : y + h;
  paint.fillStyle = colour;
  paint.fillRect(x - 1.5, top, width, 22);
  paint.fillStyle = "#000";
  paint.fillText(label, x + 4, top + 16);
}

function faceWords(face) {
  const figures = face.score === null ? "" : `, score ${score(face.score)} of ${score(face.threshold)} needed`;
  const live = face.pad === null ? "" : `, live ${score(face.pad.score)}`;
  if (face.verdict === "identified") return `${person(face.subject_id, face.name)}${figures}${live}`;
  return `${words(face.reason)}${figures}${live}`;
}

function outcomeLine(one) {
  if (one.subject_id === null) return el("li", {}, `${time(one.occurred_at, false)} `, el("span", { class: "bad" }, `no check-in: ${words(one.reason ?? one.event_type)}`));
  return el("li", {}, `${time(one.occurred_at, false)} `, el("span", { class: "good" }, words(one.event_type)), ` ${person(one.subject_id, one.name)}`);
}
