"use strict";
// Draws the page's photos so that one can ask them: hover or focus lights a concept up everywhere, a click opens it.
// All text goes in as text nodes, never as markup. Without this script the page shows the same in words and pictures.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const photos = data.photos, byId = new Map(photos.map((photo) => [photo.id, photo]));
  const SVG = new Set(["svg", "g", "path", "image", "circle", "text", "mask", "filter", "feMorphology", "feGaussianBlur", "rect", "title"]);
  const detail = document.getElementById("detail"), single = document.querySelector(".strip");
  let opener = null, ids = 0;
  document.documentElement.classList.add("js");

  // ---- small parts -------------------------------------------------------------------------------------------------
  function el(tag, attributes = {}, ...children) {
    const node = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
    return node;
  }

  function signed(value) {
    if (value === null || value === undefined) return "–";
    if (Math.abs(value) < 0.005) return "0.0";
    const digits = Math.abs(value) >= 99.5 ? 0 : Math.abs(value) >= 0.095 ? 1 : 2;
    return (value > 0 ? "+" : "−") + Math.abs(value).toFixed(digits);
  }

  const article = (photo) => document.getElementById(photo.id);
  const classes = (photo) => data.runs[photo.run].classes;
  const uri = (photo) => article(photo).querySelector(".seen image").getAttribute("href");
  const path = (photo, label) => article(photo).querySelector(`.seen [data-label="${label}"]`).getAttribute("d");
  const find = (photo, c, k) => (photo.by[c] ? photo.by[c].concepts.find((concept) => concept.k === k) : undefined);
  const runRoot = (run) => document.querySelector(`.bank[data-run="${run}"]`) || document;
  const card = (run, c, k) => runRoot(run).querySelector(`.concept[data-concept="${c}-${k}"]`);

  function given(run, c, k) {
    const input = card(run, c, k)?.querySelector(".name");
    return (input ? input.value.trim() : data.runs[run].names[c]?.[k]) || "";
  }

  function called(run, c, k) {
    const name = given(run, c, k);
    return name ? `${name} (${k + 1})` : `concept ${k + 1}`;
  }

  function typical(run, c, k) {
    const strip = card(run, c, k)?.querySelector("img");
    return el("img", { class: "typical", src: strip?.src, alt: strip ? "" : null, hidden: !strip });
  }

  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
  const minus = (value) => (value < 0 ? " minus" : "");
  const badge = (k, score) => el("span", { class: `badge${minus(score)}`, "aria-hidden": "true" }, String(k + 1));

  /** A square of the photo around one region, outlined. */
  function crop(photo, label) {
    const [x, y, w, h] = photo.boxes[label], [width, height] = photo.size;
    const side = Math.min(Math.max(1.35 * Math.max(w, h), 0.15 * height), Math.max(width, height));
    const left = Math.max(0, Math.min(x + w / 2 - side / 2, width - side));
    const top = Math.max(0, Math.min(y + h / 2 - side / 2, height - side));
    return el("svg", { viewBox: `${left} ${top} ${side} ${side}`, "aria-hidden": "true" },
      el("image", { href: uri(photo), width, height }),
      el("path", { class: "region", d: path(photo, label), style: "stroke:var(--lit);stroke-width:2",
        "vector-effect": "non-scaling-stroke" }));
  }

  /** A bar from zero on, with its number; low and high are the ends of the track. */
  function track(value, low, high, kind = "", text = signed(value), from = 0) {
    const at = (v) => (100 * (v - low)) / (high - low || 1);
    const [left, right] = [at(Math.min(from, from + value)), at(Math.max(from, from + value))];
    const below = kind === "" || kind === "measured" ? value < 0 : false;
    return el("span", { class: `track ${kind}${minus(value)}` },
      el("i", { style: `left:${left}%;width:${right - left}%` }),
      el("span", { style: below ? `right:${100 - left}%;padding-right:.3em` : `left:${right}%;padding-left:.3em` }, text));
  }

  // ---- one class of a photo: the photo with its concepts, and what each counts for ------------------------------------
  function overlay(photo, c) {
    const entry = photo.by[c], [width, height] = photo.size, radius = 0.043 * Math.max(width, height);
    const at = new Map(entry.concepts.map((concept) => [concept.k, concept]));
    const strongest = Math.max(0.01, ...entry.concepts.map((concept) => Math.abs(concept.score)));
    const drawing = el("svg", { class: "photo", viewBox: `0 0 ${width} ${height}`, role: "group", "data-arrows": true,
      "aria-label": `The photo with the concepts of ${classes(photo)[c]}` },
      el("image", { href: uri(photo), width, height }),
      entry.heat ? el("image", { class: "heat", href: entry.heat, width, height, preserveAspectRatio: "none" }) : null);
    for (const concept of [...entry.concepts].sort((a, b) => Math.abs(a.score) - Math.abs(b.score))) {
      const shape = { d: path(photo, concept.label), "vector-effect": "non-scaling-stroke",
        style: `stroke-opacity:${0.4 + 0.6 * Math.abs(concept.score) / strongest}` };
      drawing.append(el("path", { class: "region casing", ...shape }),
        el("path", { class: `region${minus(concept.score)}`, "data-labels": concept.label, ...shape,
          onclick: () => openConcept(photo, c, concept.k) }));
    }
    for (const relation of [...entry.relations].reverse()) drawing.append(arrow(photo, c, relation, at, radius));
    for (const concept of entry.concepts) {
      const words = `${called(photo.run, c, concept.k)}: contribution ${signed(concept.score)}, measured ${signed(concept.measured)}`;
      drawing.append(el("g", { class: `disc${minus(concept.score)}`, tabindex: 0, role: "button", "aria-label": words,
        "data-labels": concept.label, onclick: () => openConcept(photo, c, concept.k) },
        el("circle", { cx: concept.x, cy: concept.y, r: radius, "vector-effect": "non-scaling-stroke" }),
        el("text", { x: concept.x, y: concept.y, "font-size": 1.15 * radius }, String(concept.k + 1)),
        el("title", {}, words)));
    }
    return drawing;
  }

  function arrow(photo, c, relation, at, radius) {
    const [a, b] = [at.get(relation.source), at.get(relation.target)];
    const [dx, dy] = [b.x - a.x, b.y - a.y], length = Math.hypot(dx, dy) || 1, [ux, uy] = [dx / length, dy / length];
    const bend = relation.arranged ? 0.22 * length : 0.1 * length, gap = 1.25 * radius;
    const start = [a.x + ux * gap, a.y + uy * gap], end = [b.x - ux * gap, b.y - uy * gap];
    const middle = [(a.x + b.x) / 2 + uy * bend, (a.y + b.y) / 2 - ux * bend];
    const strongest = Math.abs(photo.by[c].relations[0].score) || 1;
    const thick = (0.18 + 0.3 * (Math.abs(relation.score) / strongest)) * radius;
    const d = `M${start}Q${middle} ${end}`, [hx, hy] = [end[0] - middle[0], end[1] - middle[1]];
    const far = Math.hypot(hx, hy) || 1, [tx, ty] = [hx / far, hy / far], size = 0.75 * radius;
    const head = `M${end[0] + tx * size * 0.6} ${end[1] + ty * size * 0.6}L${end[0] - tx * size - ty * size * 0.7} ${end[1] - ty * size + tx * size * 0.7}L${end[0] - tx * size + ty * size * 0.7} ${end[1] - ty * size - tx * size * 0.7}Z`;
    const style = `stroke-width:${thick}` + (relation.score < 0 ? `;stroke-dasharray:${2.4 * thick} ${1.4 * thick}` : "");
    return el("g", { tabindex: 0, role: "button", "aria-label": relation.text, "data-labels": `${a.label} ${b.label}`,
      "data-both": true, onclick: () => openRelation(photo, c, relation) },
      el("path", { class: "link casing", d, style: `stroke-width:${thick + 0.22 * radius}` }),
      el("path", { class: `link${minus(relation.score)}`, "data-labels": `${a.label} ${b.label}`, "data-both": true, d, style }),
      relation.arranged ? el("path", { class: `head${minus(relation.score)}`, d: head, fill: relation.score < 0 ? "var(--against)" : "var(--for)", stroke: "#fff", "stroke-width": 0.1 * radius }) : null,
      el("title", {}, relation.text));
  }

  function ends(photo, pair) {
    const values = pair.flatMap((c) => [...photo.by[c].concepts, ...photo.by[c].relations].flatMap((x) => [x.score, x.measured]));
    const known = values.filter((value) => value !== null);
    return [Math.min(0, ...known), Math.max(0, ...known)];
  }

  function bars(thing, range, name) {
    return el("span", { class: "bars" }, name ? el("b", {}, name) : null, track(thing.score ?? 0, ...range),
      thing.measured === null ? el("span", { class: "quiet" }, "not measured") : track(thing.measured, ...range, "measured"));
  }

  /** Lays Grad-CAM over the photos instead of the concepts, to compare. */
  function heatButton(photo) {
    return el("button", { class: "toggle", "aria-pressed": String(article(photo).classList.contains("heated")),
      title: "Where the last layer looks for this class, by Grad-CAM: to compare with. No contribution is read off it.",
      onclick: () => {
        const on = article(photo).classList.toggle("heated");
        article(photo).querySelectorAll(".toggle").forEach((button) => button.setAttribute("aria-pressed", String(on)));
      } }, "Grad-CAM");
  }

  function panel(photo, c, range) {
    const entry = photo.by[c], name = classes(photo)[c], own = c === photo.predicted, run = photo.run;
    const rows = el("div", { class: "rows", "data-arrows": true });
    for (const concept of [...entry.concepts].sort((a, b) => b.score - a.score)) {
      rows.append(el("button", { class: "row", "data-labels": concept.label, "data-concept": `${c}-${concept.k}`,
        "aria-label": `${called(run, c, concept.k)}: contribution ${signed(concept.score)}, measured ${signed(concept.measured)}`,
        onclick: () => openConcept(photo, c, concept.k) },
        badge(concept.k, concept.score), crop(photo, concept.label), typical(run, c, concept.k), bars(concept, range, given(run, c, concept.k))));
    }
    for (const relation of entry.relations) {
      const both = [relation.source, relation.target].map((k) => find(photo, c, k).label).join(" ");
      rows.append(el("button", { class: "row", "data-labels": both, "data-both": true, "aria-label": relation.text,
        onclick: () => openRelation(photo, c, relation) },
        el("span", { class: "relation" }, el("b", {}, relation.ends), " ", relation.kind), bars(relation, range)));
    }
    const missing = entry.missing.map((lack) => el("button", { class: `${lack.clear ? "clear" : ""} ${lack.maybe ? "maybe" : ""}`,
      "data-concept": `${c}-${lack.k}`, onclick: () => openMissing(photo, c, lack) }, typical(run, c, lack.k),
      el("span", {}, called(run, c, lack.k), lack.maybe ? ", perhaps there" : "", lack.gain === null ? "" : el("br"), lack.gain === null ? "" : `${signed(lack.gain)} if there`)));
    return el("section", { class: "panel", "aria-label": `Why ${own ? "" : "not "}${name}?` },
      el("h3", {}, `Why ${own ? "" : "not "}${name}?`),
      el("p", { class: "key" }, `classifier ${photo.p[c].toFixed(2)} · graph network ${photo.grn[c].toFixed(2)}${c === photo.true ? " · the label" : ""}`,
        entry.heat ? heatButton(photo) : null),
      overlay(photo, c), el("p", {}, entry.why),
      entry.concepts.length ? el("p", { class: "key" }, el("span", { class: "track" }, el("i")), "contribution", el("span", { class: "track measured" }, el("i")), "measured by deleting it (logits)") : null,
      rows, missing.length ? el("p", { class: "key" }, "Not found in this photo:") : null, el("div", { class: "chips", "data-arrows": true }, missing));
  }

  // ---- from one class to another ---------------------------------------------------------------------------------------
  function waterfall(photo, [a, b]) {
    const names = classes(photo), found = photo.steps[`${b},${a}`] || [];
    const likely = el("div", {}, el("h3", {}, "Probability"), el("p", { class: "key" }, el("span", { class: "track total" }, el("i")), "classifier", el("span", { class: "track grn" }, el("i")), "graph network"));
    for (const c of photo.classes) {
      likely.append(el("button", { class: "fall", "aria-label": `${names[c]}: classifier ${photo.p[c].toFixed(2)}, graph network ${photo.grn[c].toFixed(2)}. Compare with it.`,
        onclick: () => render(photo, c === a ? [a, b] : [a, c]) }, el("span", {}, names[c]),
        el("span", {}, track(photo.p[c], 0, 1.1, "total", photo.p[c].toFixed(2)), track(photo.grn[c], 0, 1.1, "grn", photo.grn[c].toFixed(2)))));
    }
    const box = el("section", { class: "panel", "aria-label": `From ${names[b]} to ${names[a]}` });
    if (found.length) {
      let at = photo.z[b];
      const reached = [at, ...found.map((step) => (at += step[1]))], low = Math.min(0, ...reached), high = Math.max(0, ...reached);
      const total = (c) => el("div", { class: "fall total" }, el("span", {}, names[c]), track(photo.z[c], low, high, "total"));
      box.append(el("h3", {}, `From ${names[b]} to ${names[a]}`),
        el("p", { class: "key" }, `In logits, step by step. Blue: speaks for ${names[a]}, against ${names[b]}; red: the other way.`), total(b));
      found.forEach(([name, value, rest, labels], i) => box.append(el("div", { class: "fall", "data-labels": labels.join(" "), "data-both": labels.length > 1, tabindex: labels.length ? 0 : null },
        el("span", {}, name), track(value, low, high, rest ? "rest" : "step", signed(value), reached[i]))));
      box.append(total(a));
    }
    box.append(likely);
    return box;
  }

  function render(photo, pair) {
    const home = article(photo), stage = home.querySelector(".stage"), names = classes(photo);
    const next = photo.classes.find((c) => c !== photo.predicted);
    const other = photo.true !== null && photo.true !== photo.predicted ? photo.true : next;
    const [a, b] = (photo.pair = pair || photo.pair || [photo.predicted, other ?? photo.predicted]);
    const choose = (chosen, label, set) => el("select", { "aria-label": label, onchange: (event) => set(Number(event.target.value)) },
      photo.classes.map((c) => el("option", { value: c, selected: c === chosen }, names[c])));
    const static_ = stage.querySelector(".seen");
    static_.classList.add("static");
    home.querySelector(".pair")?.remove();
    if (names.length > 1) {
      stage.before(el("p", { class: "pair" }, "Why ", choose(a, "Why this class", (c) => render(photo, c === b ? [b, a] : [c, b])),
        " and not ", choose(b, "and not that class", (c) => render(photo, c === a ? [b, a] : [a, c])), "?"));
    }
    const range = ends(photo, [...new Set([a, b])]);
    stage.replaceChildren(static_, panel(photo, a, range), ...(a === b ? [] : [panel(photo, b, range)]), waterfall(photo, [a, b]));
    if (home.querySelector(".answer")) return;
    const ask = (what, text) => el("button", { "data-ask": what, onclick: () => answer(photo, what) }, text);
    const bar = single ? null : el("div", { class: "questions", role: "group", "aria-label": "Ask about this photo" },
      ask("decided", "Which part decided?"), ask("against", "What speaks against it?"), ask("missing", "What is missing?"), ask("trust", "Can I trust it?"));
    home.querySelector(".trust, .stage").before(...(bar ? [bar] : []), el("p", { class: "answer", role: "status" }));
  }

  // ---- hover, focus: the same concept lights up in the photo, the bars, the steps and the gallery ----------------------
  function light(source) {
    document.querySelectorAll(".lit").forEach((node) => node.classList.remove("lit"));
    document.querySelectorAll(".lighting").forEach((node) => node.classList.remove("lighting"));
    if (!source) return;
    const home = source.closest("article"), concept = source.dataset.concept;
    const labels = new Set((source.dataset.labels || "").split(" ").filter(Boolean));
    const shown = home ? [home] : [...document.querySelectorAll("article.current, .versus article")].filter((a) => runRoot(byId.get(a.id).run).contains(source));
    for (const place of shown) {
      const photo = byId.get(place.id), own = new Set(labels);
      if (concept && !own.size) { const [c, k] = concept.split("-").map(Number), here = find(photo, c, k); if (here) own.add(String(here.label)); }
      for (const node of place.querySelectorAll("[data-labels]")) {
        const parts = node.dataset.labels.split(" ").filter(Boolean);
        if (parts.length && (node.hasAttribute("data-both") ? parts.every((l) => own.has(l)) : parts.some((l) => own.has(l)))) node.classList.add("lit");
      }
      if (own.size) place.classList.add("lighting");
      for (const c of photo.classes) for (const found of photo.by[c].concepts) if (own.has(String(found.label))) card(photo.run, c, found.k)?.classList.add("lit");
    }
    if (concept) { source.classList.add("lit"); const [c, k] = concept.split("-"); card(home ? byId.get(home.id).run : 0, c, k)?.classList.add("lit"); }
  }
  const marked = (event) => (event.target.closest ? event.target.closest("[data-labels], [data-concept]") : null);
  document.addEventListener("pointerover", (event) => { if (!event.target.closest?.("#detail")) light(marked(event)); });
  document.addEventListener("focusin", (event) => { const source = marked(event); if (source) light(source); });

  // ---- the panel of one concept, relation or missing concept -------------------------------------------------------------
  function show(title, ...content) {
    if (!detail.contains(document.activeElement)) opener = document.activeElement;
    const close = el("button", { class: "close", onclick: hide, "aria-label": "Close" }, "✕");
    detail.replaceChildren(close, el("h3", {}, title), ...content.flat().filter((part) => part));
    detail.setAttribute("aria-label", title);
    detail.hidden = false;
    detail.scrollTop = 0;
    close.focus({ preventScroll: true });
  }

  function hide() {
    if (detail.hidden) return;
    detail.hidden = true;
    if (opener?.isConnected) opener.focus({ preventScroll: true });
    else light(null);
  }

  function exemplars(run, c, k) {
    const place = card(run, c, k), strip = place?.querySelector("img"), note = place?.querySelector(".called")?.parentNode;
    return [strip ? el("h4", {}, "Typical patches") : null, strip ? el("img", { src: strip.src, alt: strip.alt }) : null,
      note ? el("p", { class: "quiet small" }, [...note.childNodes].filter((n) => n.nodeName !== "INPUT").map((n) => n.textContent).join(" ").trim()) : null,
      ...[...(place?.querySelectorAll(".small") || [])].map((n) => el("p", { class: "quiet small" }, n.textContent))];
  }

  function elsewhere(photo, c, k) {
    const found = photos.filter((other) => other !== photo && other.run === photo.run && find(other, c, k));
    const thumbs = found.map((other) => { const here = find(other, c, k); return el("a", { href: `#${other.id}`, onclick: hide }, crop(other, here.label),
      `${classes(other)[other.predicted]} ${signed(here.score)}`); });
    return [el("h4", {}, "Where else it was found"), found.length ? el("div", { class: "thumbs" }, thumbs) : el("p", { class: "quiet" }, "In no other photo of this page.")];
  }

  /** The photo as the classifier saw it with some regions deleted: grown, feathered, and filled, as VRX's editor does it. */
  function deleted(photo, labels) {
    const [width, height] = photo.size, id = `cut${++ids}`, frame = { x: 0, y: 0, width, height };
    return el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "The photo with it deleted" },
      el("filter", { id: `${id}f`, filterUnits: "userSpaceOnUse", "color-interpolation-filters": "sRGB", ...frame },
        el("feMorphology", { operator: "dilate", radius: photo.grow }), el("feGaussianBlur", { stdDeviation: photo.grow / 2 })),
      el("mask", { id, maskUnits: "userSpaceOnUse", ...frame },
        el("g", { filter: `url(#${id}f)` }, labels.map((label) => el("path", { d: path(photo, label), fill: "#fff" })))),
      el("image", { href: uri(photo), width, height }),
      el("g", { mask: `url(#${id})` }, el("image", { href: photo.blur, width, height, preserveAspectRatio: "none" })));
  }

  function beforeAfter(photo, labels) {
    const [width, height] = photo.size;
    const before = el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "The photo" }, el("image", { href: uri(photo), width, height }));
    const exact = photo.fill === "blur" ? "Redrawn by the same steps as the classifier was shown it: the region grown, feathered, filled with the blurred photo."
      : `The classifier was shown another fill (${photo.fill}); here the region is blurred.`;
    return [el("h4", {}, "The photo with it deleted"), el("div", { class: "two" }, el("figure", {}, before, el("figcaption", {}, "before")),
      el("figure", {}, deleted(photo, labels), el("figcaption", {}, "deleted"))), el("p", { class: "quiet small" }, exact)];
  }

  function numbers(...rows) {
    return el("table", {}, rows.filter((row) => row).map(([head, value]) => el("tr", {}, el("th", { scope: "row" }, head), el("td", {}, value))));
  }

  function openConcept(photo, c, k) {
    const name = classes(photo)[c], concept = find(photo, c, k), margin = photo.margins[c];
    const others = photo.classes.flatMap((d) => photo.by[d].concepts.filter((o) => d !== c && o.label === concept.label).map((o) => `${called(photo.run, d, o.k)} of ${classes(photo)[d]}`));
    const after = concept.measured === null ? null : margin - concept.measured;
    show(capital(`${called(photo.run, c, k)} of ${name}`),
      numbers(["contribution (graph network)", signed(concept.score)], ["measured: deleting it costs", signed(concept.measured)],
        after === null ? null : [`margin of ${name}, before and after`, `${signed(margin)} → ${signed(after)}`]),
      el("p", {}, verdict(concept, name, margin, after)),
      others.length ? el("p", {}, `The same patch counts as ${others.join(", ")}.`) : null,
      beforeAfter(photo, [concept.label]), exemplars(photo.run, c, k), elsewhere(photo, c, k));
  }

  function verdict(concept, name, margin, after) {
    if (after === null) return "Its effect was not measured.";
    if (margin > 0 && after < 0) return `Without it the classifier no longer finds ${name} likelier than all other classes together.`;
    const same = Math.sign(concept.score) === Math.sign(concept.measured) || Math.abs(concept.measured) < 0.05;
    return same ? "The classifier confirms the direction." : "The classifier does the opposite of what the graph network expects: do not believe this number.";
  }

  function openRelation(photo, c, relation) {
    const labels = [relation.source, relation.target].map((k) => find(photo, c, k).label);
    show(`${relation.ends}: ${relation.kind}`, el("p", {}, relation.text),
      numbers(["expected (graph network)", signed(relation.score)], ["measured on the classifier", signed(relation.measured)], ["what both must exceed, by the noise", (relation.noise ?? 0).toFixed(2)]),
      el("p", { class: "quiet" }, relation.arranged ? "Measured by moving the first concept, with and without the other." : "Measured by deleting each, and both: how much both together differ from the sum of each."),
      beforeAfter(photo, labels), ...[relation.source, relation.target].map((k) => [el("h4", {}, called(photo.run, c, k)), el("div", { class: "thumbs" }, crop(photo, find(photo, c, k).label))]));
  }

  function openMissing(photo, c, lack) {
    const name = classes(photo)[c];
    const text = lack.gain === null ? "Whether it would help was not measured." : lack.clear ? `If it were there, ${name} would gain ${signed(lack.gain)}: measured by putting typical patches in, clear of the noise.`
      : "Putting it in changes the class by no more than the noise of the measurement.";
    show(capital(`${called(photo.run, c, lack.k)} of ${name}, not found`), el("p", {}, text),
      numbers(["expected gain (graph network)", signed(lack.expected)], ["measured gain", signed(lack.gain)]),
      lack.maybe ? el("p", {}, "It may be there, with less than even odds.") : null, exemplars(photo.run, c, lack.k), elsewhere(photo, c, lack.k));
  }

  // ---- the questions of a newcomer ----------------------------------------------------------------------------------------
  function answer(photo, what) {
    if (photo.pair[0] !== photo.predicted) render(photo, [photo.predicted, photo.pair[1] === photo.predicted ? photo.pair[0] : photo.pair[1]]);
    const [a, b] = photo.pair, name = classes(photo)[a], other = classes(photo)[b], home = article(photo), say = home.querySelector(".answer");
    const best = [...photo.by[a].concepts].sort((x, y) => y.score - x.score)[0];
    const node = (c, concept) => home.querySelector(`.row[data-concept="${c}-${concept.k}"]`);
    if (what === "decided") {
      const sure = best && best.score > 0;
      say.textContent = sure ? `${capital(called(photo.run, a, best.k))} supports ${name} most: the graph network expects ${signed(best.score)}; deleting it costs the classifier ${signed(best.measured)} logits.`
        : `No single part: none of the concepts of ${name} supports it here. ${photo.by[a].why}`;
      if (sure) { node(a, best).focus({ preventScroll: true }); openConcept(photo, a, best.k); }
    } else if (what === "against") {
      const own = photo.by[a].concepts.filter((x) => x.score < -0.05), rival = photo.by[b].concepts.filter((x) => x.score > 0.05);
      const list = (some, c) => some.map((x) => `${called(photo.run, c, x.k)} (${signed(x.score)}, measured ${signed(x.measured)})`).join(", ");
      say.textContent = `Against ${name}: ${list(own, a) || "none of its own concepts"}. For ${other}: ${list(rival, b) || "none of its concepts"}.`;
      const first = own[0] ? node(a, own[0]) : rival[0] ? node(b, rival[0]) : null;
      first?.focus({ preventScroll: true });
      if (!first) light(null);
    } else if (what === "missing") {
      const list = (c) => photo.by[c].missing.filter((x) => x.clear && x.gain > 0).map((x) => `${called(photo.run, c, x.k)} (${signed(x.gain)} if it were there)`).join(", ");
      const count = (c) => photo.by[c].missing.length;
      say.textContent = `Of ${name}, ${count(a)} concepts were not found${list(a) ? `; it lacks ${list(a)}` : ""}. Of ${other}, ${count(b)} were not found${list(b) ? `; it lacks ${list(b)}` : "; none is measured to make a difference beyond the noise"}.`;
      home.querySelector(".chips button")?.focus({ preventScroll: true });
    } else {
      say.textContent = `${{ high: "Yes.", limited: "With care.", low: "No." }[photo.level]} ${photo.trust}`;
      light(null);
    }
  }

  // ---- the photos: one at a time, chosen by the address ---------------------------------------------------------------------
  function current(id) {
    const photo = byId.get(id);
    if (!photo) return false;
    document.querySelectorAll("article.current").forEach((node) => node.classList.remove("current"));
    article(photo).classList.add("current");
    single?.querySelectorAll("a").forEach((a) => (a.hash === `#${id}` ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current")));
    if (!photo.pair) render(photo);
    return true;
  }

  function go() {
    const id = decodeURIComponent(location.hash.slice(1));
    if (single && current(id)) { single.scrollIntoView({ block: "start" }); article(byId.get(id)).focus({ preventScroll: true }); }
    else if (id.startsWith("cell-")) document.getElementById(id)?.focus({ preventScroll: true });
  }

  for (const photo of photos) {
    const wrong = photo.true !== null && photo.true !== photo.predicted, name = classes(photo)[photo.predicted];
    const thumb = () => el("img", { src: uri(photo), alt: "" });
    single?.append(el("a", { href: `#${photo.id}`, title: photo.file, "aria-label": `${photo.file}: ${name}${wrong ? `, wrong: ${classes(photo)[photo.true]}` : ""}` },
      thumb(), el("span", { class: wrong ? "wrong" : "" }, `${wrong ? "✗ " : ""}${name}`)));
    document.querySelectorAll(`.cell a[href="#${photo.id}"], .lists a[href="#${photo.id}"]`).forEach((a) => a.prepend(thumb()));
  }
  if (single) single.dataset.arrows = "";
  if (!single) photos.forEach((photo) => current(photo.id));
  else if (photos.length) current(data.first);
  addEventListener("hashchange", go);
  addEventListener("beforeprint", () => photos.filter((photo) => !photo.pair).forEach((photo) => render(photo)));
  if (location.hash) go();

  document.addEventListener("click", (event) => {
    const ask = event.target.closest("a[data-ask]"), link = event.target.closest('a[href^="#photo-"]');
    if (ask) { event.preventDefault(); const photo = byId.get(document.querySelector("article.current")?.id) || byId.get(ask.hash.slice(1)); current(photo.id); answer(photo, ask.dataset.ask); article(photo).scrollIntoView({ block: "start" }); }
    else if (link && link.hash === location.hash) go();
    else { const place = event.target.closest(".concept"); if (place && event.target.tagName !== "INPUT") openCard(place); }
  });

  function openCard(place) {
    const [c, k] = place.dataset.concept.split("-").map(Number), run = Number(place.closest(".bank")?.dataset.run || 0);
    const somewhere = { run };
    show(capital(`${called(run, c, k)} of ${data.runs[run].classes[c]}`), exemplars(run, c, k), elsewhere(somewhere, c, k));
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    if (event.key === "Enter" && event.target.matches?.(".disc, svg [role=button]")) { event.preventDefault(); return event.target.dispatchEvent(new MouseEvent("click", { bubbles: true })); }
    if (event.key === "Enter" && event.target.matches?.(".concept")) return openCard(event.target);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key], group = event.target.closest?.("[data-arrows]");
    if (!step || !group || event.target.matches("input, select")) return;
    const stops = [...group.querySelectorAll("a, button, [tabindex='0']")], at = stops.indexOf(event.target.closest("a, button, [tabindex='0']"));
    const next = stops[at + step];
    if (next) { event.preventDefault(); next.focus(); if (group === single) next.click(); }
  });

  // ---- names, kept in this browser until they are exported ---------------------------------------------------------------------
  const inputs = [...document.querySelectorAll("input.name")], key = `vrx names: ${document.title}`;
  const kept = (() => { try { return JSON.parse(localStorage.getItem(key)) || {}; } catch { return {}; } })();
  for (const input of inputs) {
    input.value = kept[`${input.dataset.class}-${input.dataset.number}`] ?? input.value;
    input.addEventListener("input", () => {
      try { localStorage.setItem(key, JSON.stringify(Object.fromEntries(inputs.map((i) => [`${i.dataset.class}-${i.dataset.number}`, i.value])))); } catch { /* a frame without storage */ }
      const doubled = inputs.some((i) => i !== input && i.dataset.class === input.dataset.class && i.value.trim() && i.value.trim().toLowerCase() === input.value.trim().toLowerCase());
      input.setCustomValidity(doubled ? "Another concept of this class has that name: give each its own." : "");
      if (doubled) input.reportValidity();
    });
    input.addEventListener("change", () => { const open = document.querySelector("article.current"); if (open) render(byId.get(open.id)); });
  }
  const button = document.getElementById("export");
  if (button && inputs.length) {
    button.parentNode.hidden = false;
    button.addEventListener("click", () => {
      const said = document.getElementById("exported"), bad = inputs.find((input) => !input.checkValidity());
      if (bad) { said.textContent = "Two concepts of a class have the same name."; bad.reportValidity(); return; }
      const lines = data.runs[0].classes.map((name, c) => {
        const own = inputs.filter((i) => Number(i.dataset.class) === c && i.value.trim());
        return own.length ? `${JSON.stringify(name)}: {${own.map((i) => `${i.dataset.number}: ${JSON.stringify(i.value.trim())}`).join(", ")}}\n` : "";
      });
      const link = el("a", { href: URL.createObjectURL(new Blob([lines.join("")], { type: "text/yaml" })), download: "names.yaml" });
      link.click();
      said.textContent = `${inputs.filter((i) => i.value.trim()).length} names written.`;
    });
  }
})();
