// @ts-check
// The FLUX widget in the browser: one run as a film of pictures, scrubbed here without asking the kernel.
//
// The kernel speaks by custom messages (`here`, `run`, `frames`, `maps`, `refused`; see film.py) and two traits,
// `_settings` and `_status`. The browser asks by custom messages (`hello`, `generate`, `stop`, `kind`, `maps`):
// ipywidgets holds trait changes back while the kernel is busy, messages it sends at once.
// Every text from a person or a tokenizer enters the page through textContent.

/** @typedef {{prompt: string, seed: number, num_steps: number|null, shift: number|null,
 *   cfg_weight: number|null, live: boolean, answers: number}} Settings   null: the model's own
 *  @typedef {{state: string, run: number, step: number, total: number, seconds: number,
 *   error: string, note: string}} Status
 *  @typedef {{run: number, prompt: string, num_steps: number, shift: number, cfg_weight: number, sigmas: number[],
 *   words: string[], double: number, single: number}} Run
 *  @typedef {{height: number, width: number, cells: Uint8Array, mass: number[]}} Grid
 *  @typedef {{get: (key: string) => any, on: Function, off: Function, send: Function}} Model */

const HEAT = [[0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85],
  [227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164]];   // images.HEAT: "inferno"
const PLOT = { width: 360, height: 132, left: 26, right: 10, top: 10, bottom: 20 };   // SVG units
const SHIFTS = { low: -3, high: 4 };   // log2 of the ends of the shift slider
const LIVE_PAUSE = 80;   // milliseconds between two requests while a slider moves
const UNSEEN = 3000;   // milliseconds after which a run that no view shows is stopped
const OWN_KEYS = "data-lm-suppress-shortcuts";   // Lumino leaves keys alone that an element with this is given
const TITLES = {
  shift: "shift of the schedule: above 1 the steps dwell at high noise, below 1 at low noise",
  CFG: "classifier-free guidance: how far each step is led from the negative text towards the prompt; 0 or 1 is off, else a step costs two passes",
  word: "one column of the attention: how much each patch of the picture looks at the word, not what the word's own tokens look at",
};
const SVG = "http://www.w3.org/2000/svg";

/** 256 colours, straight lines between HEAT */
const COLOURS = Array.from({ length: 256 }, (_, value) => {
  const at = (value / 255) * (HEAT.length - 1), low = Math.min(Math.floor(at), HEAT.length - 2);
  return HEAT[low].map((from, c) => Math.round(from + (HEAT[low + 1][c] - from) * (at - low)));
});

/** Whether a run is being drawn, as far as the kernel last said. @param {Model} model */
const isDrawn = (model) => ["loading", "drawing"].includes(model.get("_status").state);

let count = 0;   // ids of this page's elements

/** An element with properties, attributes (`aria-*`, `role`, everything in SVG), listeners and children.
 * @param {string} tag @param {Record<string, any>} [given] @param {...(Node|string)} children @returns {any} */
const make = (tag, given = {}, ...children) => {
  const drawn = ["svg", "path", "line", "circle", "g", "text", "rect"].includes(tag);
  const node = drawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(given)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (!drawn && key in node) /** @type {any} */ (node)[key] = value;
    else node.setAttribute(key, value);
  }
  // Notebook 7 looks for its shortcuts before the event gets here, and only at the focused element itself.
  if (/^(input|button|select|textarea)$/.test(tag) || "tabindex" in given) {
    node.setAttribute(OWN_KEYS, "true");
  }
  node.append(...children);
  return node;
};

/** The bytes of a DataView, which may sit inside a larger buffer. @param {DataView} view */
const bytes = (view) => new Uint8Array(/** @type {ArrayBuffer} */ (view.buffer), view.byteOffset, view.byteLength);

/** Where step `k` of the schedule lies in the plot. @param {number[]} sigmas @param {number} k */
export const place = (sigmas, k) => ({
  x: PLOT.left + (k / Math.max(1, sigmas.length - 1)) * (PLOT.width - PLOT.left - PLOT.right),
  y: PLOT.top + (1 - sigmas[k]) * (PLOT.height - PLOT.top - PLOT.bottom),
});

/** The step nearest to an x of the plot. @param {number} x @param {number} steps */
export const stepAt = (x, steps) => {
  const fraction = (x - PLOT.left) / (PLOT.width - PLOT.left - PLOT.right);
  return Math.max(0, Math.min(steps, Math.round(fraction * steps)));
};

/** @param {number | string} value */
const short = (value) => String(typeof value === "string" || Number.isInteger(value) ? value : Number(value.toPrecision(3)));
/** @param {number} share */
const percent = (share) => `${share < 0.0995 ? (100 * share).toFixed(1) : Math.round(100 * share)}\u00a0%`;
/** @param {number} word @param {string} blocks */
const mapKey = (word, blocks) => `${word} ${blocks}`;

/** What all views of one widget share: the newest run's pictures and maps, and what was asked of the kernel. */
class Film {
  constructor() {
    /** @type {Run|null} */ this.run = null;
    /** @type {Record<string, string[]>} object URLs by kind, then by step */ this.frames = { clean: [], noisy: [] };
    /** @type {Map<string, Grid[]>} by word and blocks, then by step */ this.maps = new Map();
    this.whole = new Set();   // keys of maps of which all steps are there
    this.refused = new Map();   // keys of maps that cannot be had, with the reason
    this.request = 0;   // id of the newest `generate`
    this.here = false;   // whether a kernel has spoken
    this.silent = false;   // whether none did for a while
    this.gone = false;   // whether it cannot be spoken to any more
    /** @type {Set<() => void>} */ this.views = new Set();
    /** @type {Set<string>} ids of views that show noisy pictures */ this.noisy = new Set();
  }

  /** Speaks to the kernel, or finds out that it is gone. @param {Model} model @param {any} message */
  send(model, message) {
    try {
      model.send(message);
    } catch {
      this.gone = true;
      this.views.forEach((show) => show());
    }
  }

  /** Pictures there are: steps 0..n-1. */
  get length() { return this.frames.clean.length; }
  get steps() { return this.run ? this.run.sigmas.length - 1 : 0; }

  /** @param {any} message @param {DataView[]} buffers */
  receive(message, buffers) {
    this.here = true;
    this.silent = this.gone = false;
    if (message.type === "run") {
      if (this.run?.run !== message.run) this.clear();
      this.run = message;
    } else if (message.type !== "here" && message.run !== this.run?.run) return;   // a picture of a run that is gone
    else if (message.type === "frames") {
      const urls = this.frames[message.kind];
      message.steps.forEach((/** @type {number} */ step, /** @type {number} */ i) => {
        if (urls[step]) URL.revokeObjectURL(urls[step]);
        urls[step] = URL.createObjectURL(new Blob([bytes(buffers[i])], { type: `image/${message.form}` }));
      });
    } else if (message.type === "maps") {
      const key = mapKey(message.word, message.blocks), cells = bytes(buffers[0]);
      const size = message.height * message.width, grids = this.maps.get(key) ?? [];
      message.steps.forEach((/** @type {number} */ step, /** @type {number} */ i) => {
        grids[step] = { height: message.height, width: message.width, mass: message.mass[i],
          cells: cells.slice(i * size, (i + 1) * size) };
      });
      this.maps.set(key, grids);
      if (message.last) this.whole.add(key);
    } else if (message.type === "refused") this.refused.set(mapKey(message.word, message.blocks), message.sentence);
    this.views.forEach((show) => show());
  }

  clear() {
    Object.values(this.frames).flat().forEach((url) => URL.revokeObjectURL(url));
    this.frames = { clean: [], noisy: [] };
    for (const known of [this.maps, this.whole, this.refused]) known.clear();
  }

  /** An id that grows, also over reloads and clocks: messages may reach the kernel on two threads.
   * @param {number} answered id of the request that the kernel answered last */
  nextRequest(answered) { return (this.request = Math.max(Date.now(), this.request + 1, answered + 1)); }
}

/** Sends at once, then at most every `pause` ms, and always the last call.
 * @param {() => void} call @param {number} pause */
const paced = (call, pause) => {
  let timer = 0, last = -Infinity;
  return () => {
    if (timer) return;
    const wait = Math.max(0, last + pause - performance.now());
    timer = window.setTimeout(() => { timer = 0; last = performance.now(); call(); }, wait);
  };
};

/** A row of choices of which one holds (radiogroup): arrows, Home and End move, one Tab stop.
 * @param {string} label @param {string} className @param {(index: number) => void} choose */
const choices = (label, className, choose) => {
  const box = make("div", { className, role: "radiogroup", "aria-label": label });
  box.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const all = [...box.children], at = all.indexOf(/** @type {Element} */ (event.target)), last = all.length - 1;
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    const next = (to + all.length) % all.length;
    choose(next);
    /** @type {HTMLElement} */ (box.children[next]).focus();
  });
  let shown = "";
  /** @param {string[]} names @param {number} chosen */
  const show = (names, chosen) => {
    if (JSON.stringify(names) !== shown) {
      shown = JSON.stringify(names);
      box.replaceChildren(...names.map((name, i) =>
        make("button", { type: "button", role: "radio", textContent: name, onclick: () => choose(i) })));
    }
    [...box.children].forEach((node, i) => {
      node.setAttribute("aria-checked", String(i === chosen));
      /** @type {HTMLElement} */ (node).tabIndex = i === chosen ? 0 : -1;
    });
  };
  return { box, show };
};

/** One view: builds the page's elements once, then `show` brings them up to date.
 * @param {Model} model @param {HTMLElement} el @param {Film} film */
const view = (model, el, film) => {
  const id = `fluxnb-${Date.now()}-${++count}`;
  const looks = { step: 0, follow: true, kind: "clean", word: -1, text: "", blocks: "double", asked: "", askedNoisy: 0 };
  /** @type {Settings} */ let wanted = { ...model.get("_settings") };
  const touched = new Set();   // settings changed here and not yet sent

  // ---- elements
  const prompt = make("textarea", { rows: 1, spellcheck: false, className: "fluxnb-prompt", "aria-label": "prompt", placeholder: "a photo of a cat" });
  const button = make("button", { type: "button", className: "fluxnb-go" });
  const number = (/** @type {string} */ label, /** @type {any} */ given) =>
    make("input", { type: "number", "aria-label": label, inputMode: "decimal", ...given });
  const inputs = {
    seed: number("seed", { step: "1", className: "fluxnb-seed" }),
    num_steps: number("steps", { step: "1", min: "1" }),
    shift: number("shift", { step: "any" }),
    cfg_weight: number("CFG weight", { step: "any" }),
  };
  const dice = make("button", { type: "button", className: "fluxnb-dice", title: "another seed", "aria-label": "another seed" },
    make("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" },
      make("rect", { x: 2.5, y: 2.5, width: 15, height: 15, rx: 3.5 }),
      ...[[6.5, 6.5], [13.5, 6.5], [10, 10], [6.5, 13.5], [13.5, 13.5]].map(([cx, cy]) => make("circle", { cx, cy, r: 1.4 }))));
  const shiftSlider = make("input", { type: "range", min: SHIFTS.low, max: SHIFTS.high, step: "0.05", "aria-label": "shift slider" });
  const live = make("input", { type: "checkbox", role: "switch", id: `${id}-live` });
  const field = (/** @type {string} */ label, /** @type {Node[]} */ ...nodes) =>
    make("div", { className: "fluxnb-field", title: /** @type {any} */ (TITLES)[label] ?? "" }, make("span", { className: "fluxnb-label", textContent: label, "aria-hidden": "true" }), ...nodes);
  const note = make("div", { className: "fluxnb-note", "aria-live": "polite" });
  const settings = make("fieldset", { className: "fluxnb-settings", "aria-label": "settings" },
    make("div", { className: "fluxnb-top" }, prompt, button), note,
    make("div", { className: "fluxnb-row" }, field("seed", inputs.seed, dice), field("steps", inputs.num_steps),
      field("shift", shiftSlider, inputs.shift), field("CFG", inputs.cfg_weight),
      make("label", { className: "fluxnb-switch", htmlFor: `${id}-live`, title: "draw anew whenever the seed or the shift moves" },
        live, make("span", { className: "fluxnb-track", "aria-hidden": "true" }), "live")));

  const img = make("img", { alt: "", hidden: true, draggable: false });
  const heat = make("canvas", { hidden: true });
  const empty = make("span", { className: "fluxnb-empty" });
  const slider = make("input", { type: "range", min: "0", step: "1", className: "fluxnb-step", "aria-label": "step" });
  const where = make("span", { className: "fluxnb-where" });
  const kinds = choices("picture", "fluxnb-kinds", (i) => setKind(["clean", "noisy"][i]));
  const smooth = make("input", { type: "checkbox", id: `${id}-smooth`, checked: true });
  const frame = make("div", { className: "fluxnb-frame" }, img, heat, empty);
  const picture = make("div", { className: "fluxnb-picture" },
    frame,
    make("div", { className: "fluxnb-scrub" }, slider, where),
    make("div", { className: "fluxnb-row" }, kinds.box,
      make("label", { className: "fluxnb-check", htmlFor: `${id}-smooth` }, smooth, "smooth")));

  const chips = choices("word whose attention is shown", "fluxnb-chips", (i) => setWord(i - 1));
  const blocks = make("select", { "aria-label": "blocks", className: "fluxnb-blocks" });
  const opacity = make("input", { type: "range", min: "0", max: "100", value: "55", "aria-label": "opacity of the map" });
  const mass = make("p", { className: "fluxnb-mass" });
  const bar = make("div", { className: "fluxnb-bar", "aria-hidden": "true" });
  const done = make("path", { class: "fluxnb-done" }), todo = make("path", { class: "fluxnb-todo" }), dots = make("g", { class: "fluxnb-dots" });
  const first = make("text", { class: "fluxnb-tick", y: PLOT.height - 4 }), last = make("text", { class: "fluxnb-tick", y: PLOT.height - 4, "text-anchor": "end" });
  const drop = make("line", { class: "fluxnb-drop" });
  const marker = make("g", { class: "fluxnb-marker", tabindex: "0", role: "slider", "aria-label": "step on the sigma curve", "aria-valuemin": "0" },
    make("circle", { r: 14, class: "fluxnb-grip" }), make("circle", { r: 6 }));
  const curve = make("svg", { class: "fluxnb-curve", viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "group", "aria-label": "sigma curve" },
    ...[1, 0.5, 0].map((sigma) => {
      const { y } = place([sigma], 0);
      return make("g", { class: "fluxnb-grid" }, make("line", { x1: PLOT.left, x2: PLOT.width - PLOT.right, y1: y, y2: y }),
        make("text", { class: "fluxnb-tick", x: PLOT.left - 6, y: y + 3.5, "text-anchor": "end" }, sigma === 0.5 ? "½" : String(sigma)));
    }), todo, done, dots, drop, marker, first, last);
  const side = make("div", { className: "fluxnb-side" },
    make("div", { className: "fluxnb-part" }, make("div", { className: "fluxnb-head", textContent: "Which patches look at a word", title: TITLES.word }), chips.box,
      make("div", { className: "fluxnb-row fluxnb-map" }, field("blocks", blocks), field("opacity", opacity)), bar, mass),
    make("div", { className: "fluxnb-part" }, make("div", { className: "fluxnb-head", textContent: "Noise level σ, step by step" }), curve));

  const progress = make("progress", { max: 1, "aria-label": "progress of the run" });
  const status = make("span", { className: "fluxnb-status", role: "status" });
  const error = make("div", { className: "fluxnb-error", role: "alert" });
  const root = make("div", { className: "fluxnb", role: "group", "aria-label": "FLUX widget" }, settings,
    make("div", { className: "fluxnb-foot" }, status, progress),
    make("div", { className: "fluxnb-body" }, picture, side), error);
  el.append(make("div", { className: "fluxnb-host" }, root));

  // ---- what the person does
  const generate = () => {
    touched.clear();
    const { answers, ...given } = wanted;
    film.send(model, { type: "generate", id: film.nextRequest(model.get("_settings").answers), settings: given });
  };
  const redraw = paced(generate, LIVE_PAUSE);
  const running = () => !film.gone && isDrawn(model);
  /** The step on the page: what was chosen, or the last that there is. */
  const shown = () => Math.min(looks.step, Math.max(0, film.length - 1));
  /** @param {keyof Settings} key @param {any} value */
  const want = (key, value) => {
    wanted = { ...wanted, [key]: value };
    touched.add(key);
    if (wanted.live && (key === "seed" || key === "shift")) redraw();
    showSettings();
  };
  const goTo = (/** @type {number} */ step) => {
    looks.step = Math.max(0, Math.min(step, film.length - 1));
    looks.follow = looks.step === film.length - 1;
    show();
  };
  const askMissing = () => {
    if (!film.run || !film.length || running()) return;
    const key = mapKey(looks.word, looks.blocks), asking = `${film.run.run} ${key}`;
    if (looks.kind === "noisy" && !film.frames.noisy[film.length - 1] && looks.askedNoisy !== film.run.run) {
      looks.askedNoisy = film.run.run;
      film.send(model, { type: "kind", kind: "noisy" });
    }
    if (looks.word < 0 || film.whole.has(key) || film.refused.has(key) || looks.asked === asking) return;
    looks.asked = asking;
    film.send(model, { type: "maps", view: id, run: film.run.run, word: looks.word, blocks: looks.blocks, at: shown() });
  };
  const refusal = () => film.refused.get(mapKey(looks.word, looks.blocks)) ?? "";
  const setWord = (/** @type {number} */ word) => {
    looks.word = word === looks.word ? -1 : word;   // a second click takes the map away
    looks.text = film.run?.words[looks.word] ?? "";
    looks.asked = "";
    show();
  };
  const setKind = (/** @type {string} */ kind) => {
    looks.kind = kind;
    looks.askedNoisy = film.run?.run ?? 0;
    film.noisy[kind === "noisy" ? "add" : "delete"](id);
    film.send(model, { type: "kind", kind: film.noisy.size ? "noisy" : "clean" });
    show();
  };

  // JupyterLab's one-letter shortcuts listen on the document: a stray "m" would turn the cell into text.
  root.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const target = /** @type {Element} */ (event.target), control = event.ctrlKey || event.metaKey;
    const undoes = control && /^[zy]$/i.test(event.key) && target.matches("input, textarea");   // what was typed
    const theirs = control || event.altKey || event.key === "Escape" || (event.shiftKey && event.key === "Enter");
    if (undoes || !theirs) event.stopPropagation();
    else if (target.hasAttribute(OWN_KEYS)) {   // the notebook's own, Ctrl+S and the like: let it see them
      target.removeAttribute(OWN_KEYS);
      setTimeout(() => target.setAttribute(OWN_KEYS, "true"));
    }
  });
  button.addEventListener("click", () => (running() ? film.send(model, { type: "stop" }) : generate()));
  img.addEventListener("load", () => {   // a tall picture stays on the screen
    frame.style.setProperty("--shape", String(img.naturalWidth / img.naturalHeight));
  });
  prompt.addEventListener("input", () => want("prompt", prompt.value));
  for (const node of [prompt, ...Object.values(inputs)]) {
    node.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter" || event.shiftKey || event.ctrlKey || event.metaKey || event.isComposing) return;
      event.preventDefault();
      generate();
    });
  }
  for (const [key, node] of Object.entries(inputs)) {
    node.addEventListener("input", () => {   // an emptied field is the model's own; a seed has no such thing
      if (node.value !== "") want(/** @type {keyof Settings} */ (key), Number(node.value));
      else if (key !== "seed" && !node.validity.badInput) want(/** @type {keyof Settings} */ (key), null);
    });
    node.addEventListener("blur", () => showSettings());
  }
  shiftSlider.addEventListener("input", () => want("shift", Number((2 ** Number(shiftSlider.value)).toPrecision(3))));
  dice.addEventListener("click", () => want("seed", Math.floor(Math.random() * 100000)));
  live.addEventListener("change", () => { wanted = { ...wanted, live: live.checked }; film.send(model, { type: "live", live: live.checked }); });
  slider.addEventListener("input", () => goTo(Number(slider.value)));
  smooth.addEventListener("change", () => show());
  opacity.addEventListener("input", () => show());
  blocks.addEventListener("change", () => { looks.blocks = blocks.value; looks.asked = ""; show(); });
  const drag = (/** @type {PointerEvent} */ event) => {
    const box = curve.getBoundingClientRect();
    goTo(stepAt(((event.clientX - box.left) / box.width) * PLOT.width, film.steps));
  };
  curve.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
    event.preventDefault();   // no text selection
    curve.setPointerCapture(event.pointerId);
    marker.focus();
    drag(event);
  });
  curve.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => { if (event.buttons) drag(event); });
  marker.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const far = film.steps, page = Math.max(1, Math.round(far / 5));
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -page, PageUp: page, Home: -far, End: far }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    goTo(shown() + by);
  });

  // ---- what the page shows
  const fitPrompt = () => {
    prompt.style.height = "auto";
    if (prompt.scrollHeight) prompt.style.height = `${prompt.scrollHeight + 2}px`;
  };
  const showSettings = () => {
    prompt.value !== wanted.prompt && (prompt.value = wanted.prompt);
    fitPrompt();
    for (const [key, node] of Object.entries(inputs)) {
      const given = /** @type {any} */ (wanted)[key], value = typeof given === "string" && !/^\d+$/.test(given) ? "" : given;   // digits: too many for a number
      const own = film.run ? /** @type {any} */ (film.run)[key] : null;
      node.placeholder = own === null ? "" : short(own);
      if (node !== node.getRootNode().activeElement) node.value = value ?? (own === null ? "" : short(own));
    }
    const shift = wanted.shift ?? film.run?.shift ?? 1;
    if (typeof shift === "number" && shift > 0) shiftSlider.value = String(Math.log2(shift));
    shiftSlider.setAttribute("aria-valuetext", `shift ${typeof shift === "number" ? short(shift) : shift}`);
    live.checked = wanted.live;
  };
  const showStatus = () => {
    const now = /** @type {Status} */ (model.get("_status")), busy = running();
    settings.disabled = now.state === "saved";
    button.textContent = busy ? "Stop" : "Generate";
    button.classList.toggle("fluxnb-stop", busy);
    progress.value = now.total ? now.step / now.total : 0;
    progress.classList.toggle("fluxnb-idle", !busy);
    const state = film.gone && isDrawn(model) ? "stopped" : now.state;
    const steps = `${now.step} of ${now.total} steps`, time = `${now.seconds.toFixed(now.seconds < 10 ? 2 : 0)} s`;
    status.textContent = ({ loading: "loading the model …", drawing: now.total ? `step ${now.step} of ${now.total} · ${time}` : "starting …",
      done: `${now.total} steps in ${time}`, stopped: now.total ? `stopped after ${steps} · ${time}` : "stopped",
      failed: "not drawn: see below", saved: `a saved page · ${now.step < now.total ? steps : `${now.total} steps`} in ${time}` })[state] ?? "";
    note.textContent = now.note;
  };
  const showCurve = () => {
    const sigmas = film.run?.sigmas ?? [1, 0], n = film.length;
    const points = sigmas.map((_, k) => place(sigmas, k));
    const line = (/** @type {{x: number, y: number}[]} */ some) => some.map(({ x, y }, k) => `${k ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");
    todo.setAttribute("d", line(points));
    done.setAttribute("d", line(points.slice(0, n)));
    if (sigmas.length > 42) dots.replaceChildren();
    else dots.replaceChildren(...points.map(({ x, y }, k) => make("circle", { cx: x, cy: y, r: 1.8, class: k < n ? "fluxnb-there" : "" })));
    const at = points[Math.min(shown(), points.length - 1)];
    marker.setAttribute("transform", `translate(${at.x} ${at.y})`);
    for (const [key, value] of Object.entries({ x1: at.x, x2: at.x, y1: at.y, y2: PLOT.height - PLOT.bottom })) drop.setAttribute(key, value);
    first.setAttribute("x", String(points[0].x));
    last.setAttribute("x", String(points[points.length - 1].x));
    first.textContent = film.run ? "step 0" : "";
    last.textContent = film.run ? String(film.steps) : "";
  };
  const showHeat = () => {
    const run = film.run, word = run?.words[looks.word], step = Math.min(shown(), film.steps - 1);
    const grid = film.maps.get(mapKey(looks.word, looks.blocks))?.[step];
    heat.hidden = !grid || img.hidden;
    bar.hidden = !grid;
    bar.replaceChildren();
    if (word === undefined) mass.textContent = "Choose a word: its attention is laid over the picture.";
    else if (!grid) mass.textContent = running() ? `“${word}”: when the run is done` : refusal() ? ""
      : model.get("_status").state === "saved" ? `This page holds no map of “${word}” in these blocks.` : `reading who looks at “${word}” …`;
    if (word === undefined || !grid) return;
    heat.width = grid.width;
    heat.height = grid.height;
    heat.style.opacity = String(Number(opacity.value) / 100);
    const paper = heat.getContext("2d"), pixels = paper.createImageData(grid.width, grid.height);
    grid.cells.forEach((value, i) => pixels.data.set([...COLOURS[value], 255], 4 * i));
    paper.putImageData(pixels, 0, 0);
    const names = [`“${word}”`, "other words", "the end token", "padding", "itself"];
    const order = [4, 0, 1, 2, 3].filter((i) => grid.mass[i] >= 0.0005);
    bar.replaceChildren(...order.map((i) => make("span", { className: `fluxnb-mass${i}`, style: `flex-grow:${grid.mass[i]}` })));
    mass.textContent = `In step ${step} the picture looks at ${order.map((i) => `${names[i]} ${percent(grid.mass[i])}`).join(", ")}.`;
  };
  const show = () => {
    const n = film.length, run = film.run, sigmas = run?.sigmas ?? [];
    if (looks.follow) looks.step = Math.max(0, n - 1);
    if (run && looks.word >= 0 && run.words[looks.word] !== looks.text) looks.word = run.words.indexOf(looks.text);
    const step = shown();
    const url = film.frames[looks.kind][step];
    if (url && img.src !== url) img.src = url;
    if (url) img.hidden = false;
    else if (run && !n && !running()) img.hidden = true;   // while a run begins, the last one's stays
    const developing = !url && n > 0;   // the picture on the page is another's
    root.classList.toggle("fluxnb-developing", developing);
    const kind = looks.kind === "clean" ? "clean estimate" : "noisy picture";
    img.alt = url && run ? `${kind} at step ${step} of ${film.steps}: ${run.prompt}` : "";
    empty.textContent = developing ? "developing …" : img.hidden && film.silent ? "The pictures live in the kernel: run this cell again." : "";
    root.classList.toggle("fluxnb-smooth", smooth.checked);
    const text = n ? `step ${step} of ${film.steps}, sigma ${sigmas[step].toFixed(3)}` : "no picture yet";
    where.textContent = n ? `step ${step} of ${film.steps} · σ ${sigmas[step].toFixed(3)}` : "";
    for (const node of [slider, marker]) node.setAttribute("aria-valuetext", text);
    slider.max = String(Math.max(1, film.steps));
    slider.value = String(step);
    slider.disabled = !n;
    marker.setAttribute("aria-valuemax", String(film.steps));
    marker.setAttribute("aria-valuenow", String(step));
    kinds.show(["clean estimate", "noisy"], looks.kind === "clean" ? 0 : 1);
    chips.show(["none", ...(run?.words ?? [])], looks.word + 1);
    showBlocks();
    showCurve();
    showHeat();
    askMissing();
    const gone = film.gone ? "The kernel was restarted or is gone: run this cell again." : "";
    error.textContent = gone || model.get("_status").error || refusal();
  };
  let blocksShown = "";
  const showBlocks = () => {
    const { double = 0, single = 0 } = film.run ?? {}, saved = model.get("_status").state === "saved";
    const all = [["all", "all"], ["double", "all double"], ["single", "all single"],
      ...Array.from({ length: double }, (_, i) => [String(i), `double ${i}`]),
      ...Array.from({ length: single }, (_, i) => [String(double + i), `single ${i}`])];
    const held = new Set([...film.maps.keys()].map((key) => key.split(" ")[1]));
    const offered = saved ? all.filter(([value]) => held.has(value)) : all;
    if (JSON.stringify(offered) !== blocksShown) {
      blocksShown = JSON.stringify(offered);
      blocks.replaceChildren(...offered.map(([value, textContent]) => make("option", { value, textContent })));
      if (!offered.some(([value]) => value === looks.blocks)) looks.blocks = offered[0]?.[0] ?? "all";
    }
    blocks.value = looks.blocks;
  };

  // ---- what the kernel says
  const onSettings = () => {
    const now = /** @type {Settings} */ (model.get("_settings"));
    if (now.answers < film.request) return;   // an answer to an older question would pull the slider back
    const kept = [...touched].map((key) => [key, /** @type {any} */ (wanted)[key]]);
    wanted = { ...now, ...Object.fromEntries(kept) };
    showSettings();
  };
  const onStatus = () => {
    if (running()) {   // a new run takes the place of all that was asked of the one before
      looks.asked = "";
      looks.askedNoisy = 0;
    }
    showStatus();
    show();
  };
  const onFilm = () => { showSettings(); showStatus(); show(); };
  model.on("change:_settings", onSettings);
  model.on("change:_status", onStatus);
  film.views.add(onFilm);
  showSettings();
  showStatus();
  show();
  let width = 0;   // the prompt's height is known once it is laid out, and changes with its width
  const watch = new ResizeObserver(() => {
    if (width === root.clientWidth) return;
    width = root.clientWidth;
    fitPrompt();
  });
  watch.observe(root);
  return () => {
    model.off("change:_settings", onSettings);
    model.off("change:_status", onStatus);
    film.views.delete(onFilm);
    film.noisy.delete(id);
    watch.disconnect();
    setTimeout(() => {   // its cell was run again, or its page is closed: nobody could stop it any more
      if (!film.views.size && running()) film.send(model, { type: "stop" });
    }, UNSEEN);
  };
};

export default () => {
  const film = new Film();
  return {
    /** @param {{model: Model}} given */
    initialize({ model }) {
      const hear = (/** @type {any} */ message, /** @type {DataView[]} */ buffers) => film.receive(message, buffers);
      const greet = () => film.send(model, { type: "hello" });   // a page that came late gets the pictures again
      model.on("msg:custom", hear);
      model.on("comm_live_update", greet);   // the kernel restarted, or is there again: an answer tells
      greet();
      const timer = setTimeout(() => { film.silent = !film.here && !isDrawn(model); film.views.forEach((show) => show()); }, 4000);
      return () => { clearTimeout(timer); model.off("msg:custom", hear); model.off("comm_live_update", greet); film.clear(); };
    },
    /** @param {{model: Model, el: HTMLElement}} given */
    render({ model, el }) { return view(model, el, film); },
  };
};
