"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const DASH = "–";
  const started = performance.now();

  // ------------------------------------------------------------------------------- elements; text is only ever text

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined && child !== false) node.append(child);
    }
    return node;
  }
  const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const s = (tag, attributes, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  const absent = (value) => value === null || value === undefined || value === "";
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const unique = (values) => [...new Set(values)];

  // ------------------------------------------------------------------------------- numbers for people

  const fixed = (value, digits = 1) => (absent(value) ? DASH : value.toFixed(digits));
  const whole = (value) => (absent(value) ? DASH : value.toLocaleString("en"));
  const signed = (value, digits = 1) =>
    absent(value) ? DASH : (Number(value.toFixed(digits)) === 0 ? "" : value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
  const short = (value) => (absent(value) ? DASH : String(Number(value.toPrecision(4))));

  function bytes(n) {
    if (absent(n)) return DASH;
    for (const unit of ["B", "kB", "MB", "GB"]) {
      if (n < 1000 || unit === "GB") return unit === "B" ? `${n} B` : `${n.toFixed(1)} ${unit}`;
      n /= 1000;
    }
  }
  function seconds(v) {
    if (absent(v)) return DASH;
    if (v > 0 && v < 0.01) return "<0.01 s";
    if (v < 10) return `${v.toFixed(v < 1 ? 2 : 1)} s`;
    if (v < 120) return `${v.toFixed(0)} s`;
    if (v < 7200) return `${(v / 60).toFixed(0)} min`;
    return `${(v / 3600).toFixed(1)} h`;
  }
  const plural = (n, what) => `${whole(n)} ${what}${n === 1 ? "" : "s"}`;
  const date = (text) => (text ? text.slice(0, 10) : DASH);
  const ipcText = (ipc) => (absent(ipc) ? DASH : ipc === 0 ? "all" : String(ipc));
  const clipped = (text, n) => (text.length > n ? text.slice(0, n - 1) + "…" : text);

  // ------------------------------------------------------------------------------- how a method looks: colour and shape

  const FLOOR = ["random", "full"];
  const COLOURS = 9;
  const polygon = (n, r, turn, inner) => {
    const points = [];
    for (let i = 0; i < (inner ? 2 * n : n); i++) {
      const radius = inner && i % 2 ? r * inner : r;
      const angle = turn + (2 * Math.PI * i) / (inner ? 2 * n : n);
      points.push(`${(radius * Math.sin(angle)).toFixed(2)} ${(-radius * Math.cos(angle)).toFixed(2)}`);
    }
    return `M${points.join("L")}Z`;
  };
  const cross = (r, turn) => {
    const w = r * 0.36;
    const corners = [[-w, -r], [w, -r], [w, -w], [r, -w], [r, w], [w, w], [w, r], [-w, r], [-w, w], [-r, w], [-r, -w], [-w, -w]];
    const [c, d] = [Math.cos(turn), Math.sin(turn)];
    return `M${corners.map(([x, y]) => `${(x * c - y * d).toFixed(2)} ${(x * d + y * c).toFixed(2)}`).join("L")}Z`;
  };
  const SHAPES = [
    (r) => `M${-r} 0A${r} ${r} 0 1 0 ${r} 0A${r} ${r} 0 1 0 ${-r} 0Z`,
    (r) => polygon(4, r * 1.25, Math.PI / 4),
    (r) => polygon(3, r * 1.3, 0),
    (r) => polygon(4, r * 1.3, 0),
    (r) => cross(r * 1.15, 0),
    (r) => polygon(3, r * 1.3, Math.PI),
    (r) => polygon(5, r * 1.5, 0, 0.42),
    (r) => cross(r * 1.2, Math.PI / 4),
    (r) => polygon(3, r * 1.3, Math.PI / 2),
    (r) => polygon(6, r * 1.15, 0),
  ];
  const methods = unique([
    ...data.boards.flatMap((b) => b.rows.map((r) => r[b.columns.indexOf("method")])),
    ...data.traces.map((t) => t.method),
    ...data.sets.map((t) => t.method),
  ]).sort();
  const looks = new Map();
  let place = 0;
  for (const name of methods) {
    if (FLOOR.includes(name)) looks.set(name, { colour: "var(--floor)", shape: SHAPES[0], hollow: true });
    else {
      // 9 colours and 10 shapes step together: 90 methods before a pair comes back
      looks.set(name, { colour: `var(--m${place % COLOURS})`, shape: SHAPES[place % SHAPES.length], hollow: false });
      place++;
    }
  }
  const look = (method) => looks.get(method) || { colour: "var(--floor)", shape: SHAPES[0], hollow: false };

  function marker(method, x, y, r, attributes) {
    const { colour, shape, hollow } = look(method);
    return s("path", {
      d: shape(r), transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, fill: hollow ? "var(--paper)" : colour,
      stroke: hollow ? colour : "var(--paper)", "stroke-width": hollow ? 1.6 : 0.7, ...attributes,
    });
  }
  const swatch = (method) =>
    s("svg", { class: "mark", viewBox: "-8 -8 16 16", "aria-hidden": "true" }, marker(method, 0, 0, 5));

  // ------------------------------------------------------------------------------- the tip beside a point

  const tip = document.getElementById("tip");
  let follow = null; // puts the tip of a point that the keyboard chose beside it again
  function showTip(text, x, y) {
    if (tip.textContent !== text) tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = x + 14 + box.width > innerWidth - 4 ? x - 14 - box.width : x + 14;
    const top = y + 12 + box.height > innerHeight - 4 ? y - 12 - box.height : y + 12;
    tip.style.left = `${Math.max(4, Math.min(left, innerWidth - box.width - 4))}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  }
  const hideTip = () => { tip.hidden = true; follow = null; };
  addEventListener("scroll", () => (follow ? follow() : hideTip()), { passive: true, capture: true });

  // ------------------------------------------------------------------------------- what scrolls sideways

  /* Marks the parent of what has more to its left or right, so that its edge fades there. */
  function scrolling(node) {
    const tell = () => {
      const around = node.parentElement;
      if (!around) return;
      around.classList.toggle("more-left", node.scrollLeft > 1);
      around.classList.toggle("more-right", node.scrollLeft + node.clientWidth < node.scrollWidth - 1);
    };
    node.addEventListener("scroll", tell, { passive: true });
    const sizes = new ResizeObserver(tell);
    sizes.observe(node);
    for (const child of node.children) sizes.observe(child);
    return node;
  }

  // ------------------------------------------------------------------------------- copying

  async function copy(text, button) {
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      const area = h("textarea", { readonly: true, class: "hidden", "aria-hidden": "true" });
      area.value = text;
      button.after(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
      button.focus();
    }
    const said = button.textContent;
    button.textContent = done ? "Copied" : "Select it and copy";
    setTimeout(() => { button.textContent = said; }, 1600);
  }
  function command(text) {
    const button = h("button", { type: "button" }, "Copy");
    button.addEventListener("click", () => copy(text, button));
    return h("div", { class: "command" }, h("code", null, text), button);
  }

  const facts = (pairs) =>
    h("dl", { class: "facts" }, pairs.filter(([, v]) => !absent(v)).map(([k, v]) => [h("dt", null, k), h("dd", null, v)]));

  function choice(label, options, chosen, changed, silent) {
    const buttons = options.map(([value, text]) =>
      h("button", { type: "button", "aria-pressed": String(value === chosen), onclick: () => {
        buttons.forEach((b, i) => b.setAttribute("aria-pressed", String(options[i][0] === value)));
        changed(value);
      } }, text));
    return h("fieldset", null, h("legend", { class: silent ? "hidden" : null }, label), h("div", { class: "choice" }, buttons));
  }
  function select(label, options, changed) {
    const node = h("select", null, options.map(([value, text]) => h("option", { value }, text)));
    node.addEventListener("change", () => changed(node.value));
    return [h("label", null, label, node), node];
  }

  // ------------------------------------------------------------------------------- a table that sorts and filters

  /* columns: {key, title, kind: "text"|"num", value(row), cell(row), help?, first?: 1|-1, stick?}
     rows: any; detail(row): node or null, made when first opened; parts(row): text that starts a new group in the given order */
  const FIRST_ROWS = 80;
  const MORE_ROWS = 220;
  function sortable({ caption, columns, rows, detail, parts, most }) {
    let sorted = null;
    let shown = rows;
    let keep = () => true;
    let limit = most || Infinity;
    const body = h("tbody");
    const head = h("tr");
    const made = new Map();
    const state = { columns };

    function order() {
      if (!sorted) return shown;
      const { column, way } = sorted;
      const keyed = shown.map((row, i) => [column.value(row), i, row]);
      const text = column.kind === "text";
      keyed.sort(([a, i], [b, j]) => {
        if (absent(a) || absent(b)) return absent(a) && absent(b) ? i - j : absent(a) ? 1 : -1; // missing stays last
        const by = text ? collator.compare(a, b) : a - b;
        return way * by || i - j;
      });
      return keyed.map(([, , row]) => row);
    }
    function line(row) {
      let found = made.get(row);
      if (!found) {
        found = { tr: h("tr"), more: null };
        if (detail) {
          const button = h("button", { type: "button", class: "open", "aria-expanded": "false", "aria-label": `Details of ${detail.name(row)}` });
          button.addEventListener("click", () => toggle(row, found, button));
          found.tr.append(h("td", { class: "lead" }, button));
        }
        for (const column of state.columns) {
          const clip = column.clip && column.clip(row);
          const cls = [clip && "clip", column.screen && "screen", column.kind === "num" && "num", column.stick && "stick"].filter(Boolean).join(" ");
          found.tr.append(h(column.stick ? "th" : "td", { class: cls || null, scope: column.stick ? "row" : null, title: clip && clip.length > 16 ? clip : null }, column.cell(row)));
        }
        made.set(row, found);
      }
      return found;
    }
    function toggle(row, found, button) {
      const open = button.getAttribute("aria-expanded") !== "true";
      button.setAttribute("aria-expanded", String(open));
      if (open && !found.more) {
        found.more = h("tr", { class: "more" }, h("td", { colspan: state.columns.length + 1 }, h("div", { class: "detail" }, detail.node(row))));
      }
      if (open) found.tr.after(found.more);
      else found.more.remove();
    }
    /* The first rows at once, so that a long table answers within a frame; the others while nothing else is to be done. */
    let late = 0;
    let left = [];
    function draw() {
      clearTimeout(late);
      before = undefined;
      left = order().slice(0, limit);
      body.replaceChildren(...left.splice(0, FIRST_ROWS).flatMap(nodesOf));
      rest.hidden = shown.length <= limit;
      rest.textContent = `Show all ${whole(shown.length)} rows`;
      later();
    }
    function later() {
      if (left.length) {
        table.setAttribute("aria-busy", "true");
        late = setTimeout(() => { body.append(...left.splice(0, MORE_ROWS).flatMap(nodesOf)); later(); });
      } else table.removeAttribute("aria-busy");
    }
    addEventListener("beforeprint", () => {
      clearTimeout(late);
      body.append(...left.splice(0).flatMap(nodesOf));
      later();
    });
    let before;
    function nodesOf(row) {
      const { tr, more } = line(row);
      if (parts) {
        const part = sorted ? undefined : parts(row);
        tr.classList.toggle("parts", before !== undefined && part !== before);
        before = part;
      }
      const button = tr.querySelector(".open");
      return more && button && button.getAttribute("aria-expanded") === "true" ? [tr, more] : [tr];
    }
    function drawHead() {
      head.replaceChildren();
      if (detail) head.append(h("th", { scope: "col" }, h("span", { class: "hidden" }, "Details")));
      for (const column of state.columns) {
        const th = h("th", { scope: "col", class: [column.kind === "num" && "num", column.stick && "stick", column.screen && "screen"].filter(Boolean).join(" ") || null, title: column.help });
        if (column.value) {
          th.setAttribute("aria-sort", sorted && sorted.column.key === column.key ? (sorted.way > 0 ? "ascending" : "descending") : "none");
          th.append(h("button", { type: "button", "data-key": column.key, onclick: () => sort(column) }, column.title));
        } else th.append(h("span", null, column.title));
        head.append(th);
      }
    }
    function sort(column) {
      const first = column.first || (column.kind === "num" ? -1 : 1);
      if (!sorted || sorted.column.key !== column.key) sorted = { column, way: first };
      else if (sorted.way === first) sorted = { column, way: -first };
      else sorted = null; // the third time: the order of the board
      for (const button of head.querySelectorAll("button")) {
        const mine = sorted && button.dataset.key === sorted.column.key;
        button.parentElement.setAttribute("aria-sort", mine ? (sorted.way > 0 ? "ascending" : "descending") : "none");
      }
      draw();
    }
    const rest = h("button", { type: "button", class: "link", hidden: true, onclick: () => { limit = Infinity; draw(); } });
    const table = h("table", null, h("caption", null, caption), h("thead", null, head), body);
    const box = scrolling(h("div", { class: "box", tabindex: "0", role: "region", "aria-label": caption }, table));
    drawHead();
    draw();
    return {
      node: h("div", null, h("div", { class: "edge" }, box), rest),
      table,
      filter(wanted) { keep = wanted; shown = rows.filter(keep); draw(); return shown.length; },
      show(next, nextRows, nextParts) {
        state.columns = next;
        rows = nextRows;
        parts = nextParts;
        shown = rows.filter(keep);
        sorted = (sorted && next.find((c) => c.key === sorted.column.key)) ? { ...sorted, column: next.find((c) => c.key === sorted.column.key) } : null;
        made.clear();
        drawHead();
        draw();
        return shown.length;
      },
    };
  }
  const collator = new Intl.Collator("en", { numeric: true });

  // ------------------------------------------------------------------------------- axes

  function linearTicks(low, high, about) {
    const raw = (high - low) / Math.max(1, about);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((v) => v >= raw * 0.99);
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
    return ticks.length > 1 || about > 8 ? ticks : linearTicks(low, high, about + 1.5);
  }
  function logTicks(low, high, about) {
    const all = [];
    for (let p = Math.floor(Math.log10(low)) - 1; p <= Math.ceil(Math.log10(high)); p++)
      for (const m of [1, 2, 5]) if (m * 10 ** p >= low * 0.999 && m * 10 ** p <= high * 1.001) all.push(m * 10 ** p);
    const tens = all.filter((v) => Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-9);
    const some = all.length <= about ? all : tens.length >= 2 ? tens : all.filter((_, i) => i % Math.ceil(all.length / about) === 0);
    const every = Math.ceil(some.length / about);
    return some.filter((_, i) => i % every === 0);
  }
  /* A function from values to pixels.  Log needs positive values. */
  function scale(low, high, from, to, log) {
    const f = log ? Math.log10 : (v) => v;
    const [a, b] = [f(low), f(high)];
    return (v) => from + ((f(v) - a) / (b - a || 1)) * (to - from);
  }
  /* Accuracies, with room for what intervals need, but not so much that points crowd together. */
  function accuracyRange(points, bound) {
    const means = points.map((p) => p.y);
    let [low, high] = [Math.min(...means), Math.max(...means)];
    const room = Math.max(0.6 * (high - low), 3);
    const lows = points.map((p) => (absent(p.low) ? p.y : p.low));
    const highs = points.map((p) => (absent(p.high) ? p.y : p.high));
    let [a, b] = [Math.max(Math.min(...lows), low - room), Math.min(Math.max(...highs), high + room)];
    if (!absent(bound) && bound > b && bound - a <= 1.8 * Math.max(b - a, 2)) b = bound;
    const pad = Math.max(0.05 * (b - a), 0.4);
    return [Math.max(0, a - pad), Math.min(100, b + pad)];
  }

  /* Points that can be pointed at, and walked through with the arrow keys. */
  function reachable(svg, points, text) {
    if (!points.length) return;
    const ring = s("circle", { r: 8, class: "ring", visibility: "hidden" });
    svg.append(ring);
    let at = -1;
    const hide = () => { at = -1; ring.setAttribute("visibility", "hidden"); hideTip(); };
    const show = (i) => {
      at = i;
      const p = points[i];
      ring.setAttribute("cx", p.px);
      ring.setAttribute("cy", p.py);
      ring.setAttribute("visibility", "visible");
      const beside = () => {
        const box = svg.getBoundingClientRect();
        showTip(text(p), box.left + p.px, box.top + p.py);
      };
      follow = document.activeElement === svg ? beside : null;
      beside();
    };
    const near = (event) => {
      const box = svg.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      let best = -1, nearest = 32 ** 2;
      points.forEach((p, i) => {
        const d = (p.px - x) ** 2 + (p.py - y) ** 2;
        if (d < nearest) [best, nearest] = [i, d];
      });
      if (best < 0) hide();
      else if (best !== at) show(best);
    };
    svg.addEventListener("pointermove", near);
    svg.addEventListener("pointerdown", near);
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") hide();
      else if (event.key === "Home") show(0);
      else if (event.key === "End") show(points.length - 1);
      else if (step) show(at < 0 ? (step > 0 ? 0 : points.length - 1) : (at + step + points.length) % points.length);
      else return;
      event.preventDefault();
    });
  }
  const canvas = (width, height, label) =>
    s("svg", { class: "plot", width, height, viewBox: `0 0 ${width} ${height}`, tabindex: "0", role: "img", "aria-roledescription": "plot", "aria-label": label });

  // as wide as the text of plots (page.css), to find out how much of a name fits
  const pen = document.createElement("canvas").getContext("2d");
  const wide = (text) => {
    pen.font = pen.font.startsWith("11.5px") ? pen.font : `11.5px ${getComputedStyle(document.body).fontFamily}`;
    return pen.measureText(text).width;
  };
  function fitted(text, room) {
    if (wide(text) <= room) return text;
    let n = Math.min(text.length, 60);
    while (n > 1 && wide(text.slice(0, n) + "…") > room) n--;
    return text.slice(0, n) + "…";
  }

  // labels that would overlap are pushed apart, keeping their order
  function apart(labels, low, high, gap) {
    labels.sort((a, b) => a.y - b.y);
    gap = Math.min(gap, (high - low) / Math.max(1, labels.length - 1));
    for (let i = 0; i < labels.length; i++) labels[i].at = i ? Math.max(labels[i].y, labels[i - 1].at + gap) : Math.max(low, labels[i].y);
    let ceiling = high;
    for (let i = labels.length - 1; i >= 0; i--) {
      labels[i].at = Math.min(labels[i].at, ceiling);
      ceiling = labels[i].at - gap;
    }
  }

  // ------------------------------------------------------------------------------- the rows of a board, by name

  const named = (board, more) => board.rows.map((values, i) => {
    const row = { dataset: board.dataset };
    board.columns.forEach((name, at) => { row[name] = values[at]; });
    row.full = row.method === "full";
    row.text = [row.method, row.family, row.recipe, row.overrides, row.labels, row.protocol, row.network].join(" ").toLowerCase();
    return Object.assign(row, more(i));
  });
  const boards = [];
  for (const board of data.boards) {
    const rows = named(board, (i) => ({ details: board.details[i] }));
    const pages = (board.pages || []).map((page) => ({
      ...page,
      rows: named({ ...page, dataset: board.dataset }, (i) => ({ details: page.main[i] === null ? null : board.details[page.main[i]], main: page.main[i] === null ? null : rows[page.main[i]] })),
    }));
    const whole = { ...board, rows, pages, others: [] };
    if (board.metric === "top1") boards.push(whole);
    else boards.find((b) => b.dataset === board.dataset).others.push(whole);
  }
  const setsByKey = new Map(data.sets.map((t) => [t.set, t]));
  const mean = (values) => (values.length ? sum(values) / values.length : null);

  // ------------------------------------------------------------------------------- plots of accuracy

  const AXES = {
    method: { title: "test top-1, %" },
    ipc: { title: "images per class", value: (r) => (r.full ? null : r.ipc), text: (v) => String(v), ticks: "given" },
    bytes: { title: "bytes of the set, labels included", value: (r) => (r.full ? null : r.bytes_total), text: bytes },
    seconds: { title: "seconds of distillation", value: (r) => (r.full || !(r.distil_s > 0) ? null : r.distil_s), text: seconds },
  };

  function pointText(p) {
    const r = p.row;
    return [
      `${r.method} (${r.recipe}${r.overrides ? `, ${r.overrides}` : ""})${r.partial ? ", partial" : ""}`,
      `${fixed(r.top1_pct_mean)} %${absent(r.top1_pct_std) ? "" : ` ± ${fixed(r.top1_pct_std)}`}, ${plural(r.n, "student")} of ${plural(r.distillations, "set")}`,
      absent(r.ci95_low_pct) ? "no interval: one set" : `95 % interval ${fixed(r.ci95_low_pct)} to ${fixed(r.ci95_high_pct)}`,
      `ipc ${ipcText(r.ipc)}, ${bytes(r.bytes_total)}, distilled in ${seconds(r.distil_s)}`,
    ].join("\n");
  }
  const interval = (svg, p, x, y, [low, high], colour, across) => {
    if (absent(p.low)) return;
    const [a, b] = [Math.max(p.low, low), Math.min(p.high, high)];
    const line = (c, d) => (across
      ? { x1: x(c), x2: x(d), y1: y, y2: y }
      : { x1: x, x2: x, y1: y(c), y2: y(d) });
    svg.append(s("line", { ...line(a, b), stroke: colour, "stroke-width": 1.4, "stroke-opacity": 0.65 }));
    // an end inside the plot has a cap; one that goes on outside has none
    for (const [end, inside] of [[p.low, p.low >= low], [p.high, p.high <= high]]) {
      if (!inside) continue;
      const at = across
        ? { x1: x(end), x2: x(end), y1: y - 3, y2: y + 3 }
        : { x1: x - 3, x2: x + 3, y1: y(end), y2: y(end) };
      svg.append(s("line", { ...at, stroke: colour, "stroke-width": 1.4, "stroke-opacity": 0.65 }));
    }
  };

  function panelsOf(board) {
    const found = new Map();
    for (const row of board.rows) {
      if (row.full || absent(row.top1_pct_mean)) continue;
      const key = JSON.stringify([row.protocol, row.protocol_version, row.network, row.precision, row.data_fingerprint]);
      if (!found.has(key)) found.set(key, []);
      found.get(key).push(row);
    }
    return [...found.values()];
  }
  function boundOf(board, row) {
    const twins = board.rows.filter((r) => r.full && r.network === row.network && r.data_fingerprint === row.data_fingerprint);
    const own = twins.filter((r) => r.protocol === `${row.protocol}-full`);
    const chosen = own.length ? own : twins;
    return chosen.length ? Math.max(...chosen.map((r) => r.top1_pct_mean)) : null;
  }

  function seriesOf(rows, axis) {
    const lines = new Map();
    for (const row of rows) {
      const x = AXES[axis].value(row);
      if (absent(x)) continue;
      const key = JSON.stringify([row.method, row.recipe, row.overrides]);
      if (!lines.has(key)) lines.set(key, { method: row.method, row, points: [] });
      lines.get(key).points.push({ x, y: row.top1_pct_mean, low: row.ci95_low_pct, high: row.ci95_high_pct, row });
    }
    for (const line of lines.values()) line.points.sort((a, b) => a.x - b.x);
    return [...lines.values()];
  }

  /* The methods under each other, best first at the largest ipc; one strip a value of ipc, each on a scale of its own. */
  function dotPlot(rows, bound, width, label, visible) {
    const lines = new Map();
    for (const row of rows.filter((r) => visible(r.method))) {
      const key = JSON.stringify([row.method, row.recipe, row.overrides]);
      if (!lines.has(key)) lines.set(key, []);
      lines.get(key).push(row);
    }
    const ipcs = unique(rows.map((r) => r.ipc)).sort((a, b) => a - b);
    const at = (line, ipc) => line.find((r) => r.ipc === ipc);
    const best = (line) => Math.max(...line.map((r) => 1000 * ipcs.indexOf(r.ipc) + r.top1_pct_mean));
    const order = [...lines.values()].sort((a, b) => best(b) - best(a));
    const short = (row) => {
      const twins = [...lines.values()].map((l) => l[0]).filter((r) => r.method === row.method);
      if (twins.length === 1) return row.method;
      return `${row.method} ${twins.some((t) => t !== row && t.recipe === row.recipe) && row.overrides ? row.overrides : row.recipe}`;
    };
    const names = order.map((line) => short(line[0]));
    const left = Math.min(14 + Math.max(24, ...names.map(wide)), width * 0.34);
    const gap = 18, step = 22, several = ipcs.length > 1;
    // strips that would be too narrow go under each other
    const across = Math.max(1, Math.min(ipcs.length, Math.floor((width - left + gap) / (130 + gap))));
    const strip = (width - left - gap * (across - 1)) / across;
    const top = several ? 22 : 6;
    const each = top + step * Math.max(1, order.length) + 38;
    const height = each * Math.ceil(ipcs.length / across);
    const svg = canvas(width, height, label);
    const points = [];
    ipcs.forEach((ipc, i) => {
      const from = left + (i % across) * (strip + gap), to = from + strip - 34;
      const y0 = Math.floor(i / across) * each + top, bottom = y0 + step * order.length;
      const mine = order.map((line, j) => ({ row: at(line, ipc), py: y0 + step * (j + 0.5) })).filter((p) => p.row);
      for (const p of mine) Object.assign(p, { y: p.row.top1_pct_mean, low: p.row.ci95_low_pct, high: p.row.ci95_high_pct });
      if (several) svg.append(s("text", { class: "ink", x: from, y: y0 - 8 }, `ipc ${ipcText(ipc)}`));
      if (i % across === 0)
        names.forEach((name, j) => svg.append(s("text", { class: "ink", x: left - 10, y: y0 + step * (j + 0.5) + 4, "text-anchor": "end" }, fitted(name, left - 12))));
      if (!mine.length) return;
      const range = accuracyRange(mine, bound);
      const x = scale(...range, from, to);
      for (const tick of linearTicks(...range, (to - from) / 55)) {
        svg.append(s("line", { class: "grid", x1: x(tick), x2: x(tick), y1: y0, y2: bottom }));
        svg.append(s("text", { x: x(tick), y: bottom + 14, "text-anchor": "middle" }, String(tick)));
      }
      drawBound(svg, bound, range, (v) => [x(v), y0, x(v), bottom]);
      for (const p of mine) {
        p.px = x(p.y);
        interval(svg, p, x, p.py, range, look(p.row.method).colour, true);
        svg.append(marker(p.row.method, p.px, p.py, 4.6));
        svg.append(s("text", { class: "ink", x: from + strip, y: p.py + 4, "text-anchor": "end" }, fixed(p.y)));
      }
      points.push(...mine);
    });
    svg.append(s("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, "test top-1, %"));
    reachable(svg, points, pointText);
    return svg;
  }
  function drawBound(svg, bound, [low, high], at) {
    if (absent(bound) || bound < low || bound > high) return;
    const [x1, y1, x2, y2] = at(bound);
    svg.append(s("line", { class: "bound", x1, y1, x2, y2 }));
  }

  function linePlot(rows, axis, bound, width, label, visible) {
    const lines = seriesOf(rows, axis).filter((l) => visible(l.method));
    const points = lines.flatMap((l) => l.points);
    const named = axis === "ipc" && width >= 400;
    const height = named ? Math.max(290, 64 + 13 * lines.length) : 290;
    const svg = canvas(width, height, label);
    if (!points.length) return svg;
    const room = Math.min(Math.max(...lines.map((l) => wide(l.method))), 0.25 * width);
    const [left, right, top, bottom] = [34, named ? room + 16 : 10, 10, height - 36];
    const range = accuracyRange(points, bound);
    const y = scale(...range, bottom, top);
    const xs = unique(points.map((p) => p.x)).sort((a, b) => a - b);
    // neighbours are set apart, so that intervals at equal ipc stay readable
    const dodge = axis === "ipc" ? Math.min(11, (0.5 * (width - left - right)) / (xs.length * lines.length)) : 0;
    const together = (v) => points.filter((p) => p.x === v);
    const aside = axis === "bytes" ? Math.min(9, 90 / Math.max(...xs.map((v) => together(v).length))) : 0;
    const edge = Math.max(dodge * lines.length, aside * Math.max(together(xs[0]).length, together(xs[xs.length - 1]).length)) / 2 + 10;
    const one = xs.length === 1;
    const x = scale(one ? xs[0] / 2 : xs[0], one ? xs[0] * 2 : xs[xs.length - 1], left + edge, width - right - edge, true);
    for (const tick of linearTicks(...range, 5)) {
      svg.append(s("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
      svg.append(s("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
    }
    const ticks = AXES[axis].ticks === "given" ? xs : logTicks(xs[0], xs[xs.length - 1], (width - left - right) / 62);
    for (const tick of ticks.length ? ticks : xs.slice(0, 1)) {
      svg.append(s("line", { class: "axis", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 4 }));
      svg.append(s("text", { x: x(tick), y: bottom + 17, "text-anchor": "middle" }, tickText(axis, tick)));
    }
    svg.append(s("line", { class: "axis", x1: left, x2: width - right, y1: bottom, y2: bottom }));
    svg.append(s("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, AXES[axis].title));
    drawBound(svg, bound, range, (v) => [left, y(v), width - right, y(v)]);
    const labels = [];
    lines.sort((a, b) => b.points[b.points.length - 1].y - a.points[a.points.length - 1].y);
    lines.forEach((line, i) => {
      const shift = (i - (lines.length - 1) / 2) * dodge;
      const { colour } = look(line.method);
      for (const p of line.points) [p.px, p.py] = [x(p.x) + shift, y(p.y)];
      if (axis === "ipc" && line.points.length > 1)
        svg.append(s("polyline", { points: line.points.map((p) => `${p.px},${p.py}`).join(" "), fill: "none", stroke: colour, "stroke-width": 1.3, "stroke-opacity": 0.8 }));
      const last = line.points[line.points.length - 1];
      labels.push({ y: last.py, text: line.method, px: last.px, last: last.x === xs[xs.length - 1] });
    });
    if (aside) {
      for (const v of xs) {
        const mine = together(v).sort((a, b) => a.y - b.y);
        mine.forEach((p, i) => { p.px += (i - (mine.length - 1) / 2) * aside; });
      }
    }
    for (const p of points) interval(svg, p, p.px, y, range, look(p.row.method).colour, false);
    for (const line of lines) for (const p of line.points) svg.append(marker(p.row.method, p.px, p.py, 4.4));
    if (named) {
      const outer = labels.filter((l) => l.last);
      apart(outer, top + 2, bottom - 2, 12.5);
      for (const l of outer) {
        svg.append(s("path", { d: `M${l.px + 8} ${l.y}L${Math.max(l.px + 8, width - right - 2)} ${l.y}L${width - right + 8} ${l.at}`, fill: "none", stroke: "var(--firm)", "stroke-width": 0.7, "stroke-opacity": 0.7 }));
        svg.append(s("text", { class: "ink", x: width - right + 11, y: l.at + 4 }, fitted(l.text, room)));
      }
      for (const l of labels.filter((m) => !m.last)) svg.append(s("text", { class: "ink", x: l.px + 9, y: l.y - 5 }, fitted(l.text, room)));
    }
    reachable(svg, points.sort((a, b) => a.px - b.px || a.py - b.py), pointText);
    return svg;
  }
  const tickText = (axis, v) =>
    axis === "bytes" ? bytes(v).replace(".0", "") : axis === "seconds" ? (v < 1 ? String(Number(v.toPrecision(2))) : whole(v)) : String(v);

  const tag = () => h("span", { class: "tag", title: "The protocol is ddbench's own" }, "not comparable with published numbers");

  /* Redraws at the width that there is. */
  function drawn(node, draw) {
    let width = 0;
    const again = () => {
      const now = Math.floor(node.clientWidth);
      if (now > 0 && now !== width) { width = now; draw(now); }
    };
    new ResizeObserver(again).observe(node);
    return () => { width = 0; again(); };
  }

  function plots(board, hiddenMethods, redraws) {
    const panels = panelsOf(board);
    if (!panels.length) return null;
    let axis = "method";
    const visible = (m) => !hiddenMethods.has(m);
    const nodes = panels.map((rows) => {
      const first = rows[0];
      const bound = boundOf(board, first);
      const holder = h("div");
      const about = h("span");
      const figure = h("figure", null, h("figcaption", null, h("b", null, `${first.protocol} ${first.protocol_version}`), ` ${first.network}`,
        first.precision && first.precision !== "fp32" ? `, ${first.precision}` : "", about,
        first.comparable ? null : [" ", tag()]), holder);
      const again = drawn(holder, (width) => {
        const ipcs = unique(rows.map((r) => r.ipc));
        const dots = axis === "method" || (axis === "ipc" && ipcs.length === 1);
        const label = `Accuracy ${dots ? "by method" : `over ${AXES[axis].title}`}, ${board.dataset}, ${first.protocol}, ${first.network}; arrow keys go through the points`;
        about.textContent = (dots && ipcs.length === 1 ? `, ipc ${ipcs[0]}` : "") + (absent(bound) ? "" : `; full data ${fixed(bound)} %`);
        holder.replaceChildren(dots
          ? dotPlot(rows, bound, width, label, visible)
          : linePlot(rows, axis, bound, width, label, visible));
      });
      redraws.push(again);
      return { figure, again };
    });
    return [
      h("div", { class: "tools" }, choice("Accuracy", [["method", "by method"], ["ipc", "by ipc"], ["bytes", "by bytes"], ["seconds", "by time"]], axis, (next) => {
        axis = next;
        nodes.forEach((n) => n.again());
      })),
      h("div", { class: "panels" }, nodes.map((n) => n.figure)),
      h("p", { class: "small quiet" }, "Whiskers are 95 % intervals of the mean over distillations; a point without them is one distillation. A whisker without a cap goes on outside. Dashed: the full data. Points of equal ipc or equal bytes are set a little apart, so that none hides another."),
    ];
  }

  function legend(names, hiddenMethods, changed) {
    return h("ul", { class: "legend", "aria-label": "Methods in the plots" }, names.map((name) => {
      const button = h("button", { type: "button", "aria-pressed": "true", onclick: () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(on));
        if (on) hiddenMethods.delete(name);
        else hiddenMethods.add(name);
        changed();
      } }, swatch(name), h("span", null, name));
      return h("li", null, button);
    }));
  }

  // ------------------------------------------------------------------------------- the table of a board

  function stripOf(rows) {
    const scored = rows.filter((r) => !absent(r.top1_pct_mean));
    if (!scored.length) return () => DASH;
    const low = Math.max(0, Math.floor((Math.min(...scored.map((r) => r.top1_pct_mean)) - 3) / 5) * 5);
    const high = Math.min(100, Math.ceil((Math.max(...scored.map((r) => r.top1_pct_mean)) + 1) / 5) * 5);
    const x = scale(low, high, 4, 116);
    return (row) => {
      if (absent(row.top1_pct_mean)) return DASH;
      const svg = s("svg", { class: "strip", width: 120, height: 16, role: "img",
        "aria-label": absent(row.ci95_low_pct) ? "no interval" : `${fixed(row.ci95_low_pct)} to ${fixed(row.ci95_high_pct)}` });
      svg.append(s("line", { class: "grid", x1: 4, x2: 116, y1: 8, y2: 8 }));
      const { colour } = look(row.method);
      if (!absent(row.ci95_low_pct))
        svg.append(s("line", { x1: x(Math.max(low, row.ci95_low_pct)), x2: x(Math.min(high, row.ci95_high_pct)), y1: 8, y2: 8, stroke: colour, "stroke-width": 2.4, "stroke-opacity": 0.7 }));
      svg.append(marker(row.method, x(row.top1_pct_mean), 8, 4.2));
      return svg;
    };
  }
  const spread = (value, std) => [fixed(value), absent(std) ? null : h("span", { class: "std" }, ` ± ${fixed(std)}`)];

  function columnsOf(board) {
    const strip = stripOf(board.rows);
    const num = (key, title, cell, more) => ({ key, title, kind: "num", value: (r) => r[key], cell: cell || ((r) => fixed(r[key])), ...more });
    const text = (key, title, more) => ({ key, title, kind: "text", value: (r) => r[key], cell: (r) => (absent(r[key]) ? DASH : String(r[key])), ...more });
    const c = {
      rank: num("rank", "Rank", rankText, { first: 1, help: "Places that the row may hold among rows of the same protocol, network, ipc, precision and data" }),
      method: text("method", "Method", { stick: true, cell: (r) => [swatch(r.method), " ", r.method, r.partial ? h("span", { class: "tag" }, "partial") : null] }),
      recipe: text("recipe", "Recipe", { value: (r) => r.recipe + r.overrides, cell: (r) => [r.recipe, r.overrides ? h("span", { class: "faint" }, ` + ${r.overrides}`) : null], clip: (r) => r.recipe + (r.overrides ? ` + ${r.overrides}` : "") }),
      family: text("family", "Family"),
      ipc: num("ipc", "IPC", (r) => ipcText(r.ipc), { first: 1, value: (r) => (r.ipc === 0 ? Infinity : r.ipc), help: "Images per class" }),
      labels: text("labels", "Labels", { clip: (r) => r.labels }),
      top: num("top1_pct_mean", "Top-1, %", (r) => spread(r.top1_pct_mean, r.top1_pct_std), { help: "Mean ± population deviation over students" }),
      strip: { key: "ci95_low_pct", title: "95 % interval", kind: "text", value: null, cell: strip },
      low: num("ci95_low_pct", "From", null, { help: "Lower end of the 95 % interval" }),
      high: num("ci95_high_pct", "To", null, { help: "Upper end of the 95 % interval" }),
      n: num("n", "n (sets)", (r) => `${whole(r.n)} (${whole(r.distillations)})`, { help: "Students (distillations)" }),
      random: num("vs_random_pct", "vs random", (r) => [signed(r.vs_random_pct), absent(r.vs_random_low_pct) ? null : h("span", { class: "std" }, ` [${signed(r.vs_random_low_pct)}, ${signed(r.vs_random_high_pct)}]`)], { help: "Points above random images, paired by seed, and its 95 % interval" }),
      share: num("share_of_full_pct", "% of full", null, { help: "Share of the accuracy on the full data" }),
      bytes: num("bytes_total", "Bytes", (r) => bytes(r.bytes_total), { first: 1, help: "Images, labels, codec, space and program" }),
      images: num("bytes_images", "Images", (r) => bytes(r.bytes_images), { first: 1 }),
      labelBytes: num("bytes_labels", "Of labels", (r) => bytes(r.bytes_labels), { first: 1 }),
      beside: num("bytes_beside", "Beside", (r) => (r.bytes_beside > 0 ? bytes(r.bytes_beside) : DASH), { first: 1, help: "What must stand beside the set while students train; not summed in" }),
      distil: num("distil_s", "Distilled in", (r) => seconds(r.distil_s), { first: 1, help: "Mean over distillations" }),
      teachers: num("teacher_s", "Teachers", (r) => (r.teacher_s > 0 ? seconds(r.teacher_s) : DASH), { first: 1, help: "Training of networks on real data" }),
      peak: num("distil_peak_mib", "Peak, MiB", (r) => fixed(r.distil_peak_mib, 0), { first: 1, help: "Of tensors on a GPU; on CPU of the whole process, which says little of the method: no front there" }),
      evaluate: num("evaluate_s", "Evaluated in", (r) => seconds(r.evaluate_s), { first: 1 }),
      device: text("device", "Device"),
      precision: text("precision", "Precision"),
      protocol: text("protocol", "Protocol", { cell: (r) => [`${r.protocol} ${r.protocol_version}`, r.comparable ? null : h("span", { title: "Not comparable with published numbers" }, " †", h("span", { class: "hidden" }, " not comparable with published numbers"))] }),
      network: text("network", "Network"),
      pictures: { key: "pictures", title: "Images", kind: "text", value: null, screen: true, cell: pictureButton },
    };
    const cost = num("cost_s", "Together", (r) => seconds(r.cost_s), { first: 1, help: "Distillation and teachers" });
    const front = text("front", "Unbeaten in", { value: (r) => [r.front_seconds && "time", r.front_memory && "memory"].filter(Boolean).join(" and "), help: "No other row of the same machine is at least as accurate for no more" });
    front.cell = (r) => front.value(r) || DASH;
    const budget = num("budget_bytes", "Within", (r) => bytes(r.budget_bytes).replace(".0", ""), { first: 1, help: "Bytes that a set may have" });
    const generic = (columns, rows) => columns.map((name) => {
      const values = rows.map((r) => r[name]).filter((v) => !absent(v));
      const numeric = values.length > 0 && values.every((v) => typeof v === "number");
      const cell = (r) => {
        const v = r[name];
        if (absent(v)) return DASH;
        if (typeof v === "number") return name.endsWith("_pct") ? fixed(v) : name.startsWith("bytes") ? bytes(v) : short(v);
        return h("span", { title: String(v) }, clipped(String(v), 40));
      };
      return { key: name, title: name, kind: numeric ? "num" : "text", value: (r) => (numeric || absent(r[name]) ? r[name] : String(r[name])), cell };
    });
    const start = [c.rank, c.method, c.ipc];
    const where = [c.labels, c.recipe, c.protocol, c.network];
    const any = (key) => board.rows.some((r) => !absent(r[key]));
    const scores = [c.top, c.strip, c.random, c.n, ...(any("share_of_full_pct") ? [c.share] : [])];
    const images = data.sets.some((t) => t.dataset === board.dataset) ? [c.pictures] : [];
    const peers = (r) => JSON.stringify([r.protocol, r.network, r.ipc, r.precision]);
    const views = [["rows", "All", [...start, ...scores, ...where, ...images], board.rows, peers, ""]];
    const titles = { "equal-bytes": "Equal bytes", "cost": "Cost", "uniform": "Uniform", "cross-architecture": "Cross-architecture" };
    for (const page of board.pages) {
      const apart = {
        "uniform": [[...start, ...scores, ...where, ...images], peers],
        "equal-bytes": [[budget, ...start, c.top, c.strip, c.n, c.bytes, c.images, c.labelBytes, c.beside, ...where], (r) => JSON.stringify([r.protocol, r.network, r.budget_bytes])],
        "cost": [[...start, c.top, c.strip, c.distil, c.teachers, cost, c.peak, front, text("machine", "Machine"), ...where], peers],
      }[page.kind] || [[c.rank, c.method, ...generic(page.columns.filter((n) => !["rank", "rank_last", "method"].includes(n)), page.rows)], (r) => JSON.stringify([r.protocol, r.ipc])];
      views.push([page.kind, titles[page.kind] || page.kind, apart[0], page.rows, apart[1], ABOUT[page.kind] ? `${ABOUT[page.kind]} ${page.said ? `Here: ${page.said}.` : ""}` : page.said]);
    }
    for (const other of board.others) {
      const score = num("top1_pct_mean", other.metric, (r) => spread(r.top1_pct_mean, r.top1_pct_std), { help: "Hundred times the mean ± population deviation over students" });
      views.push([`metric ${other.metric}`, other.metric, [...start, score, c.low, c.high, c.n, ...where], other.rows, peers, `Ranked by ${other.metric} in place of top-1.`]);
    }
    views.push(["columns", "Every column", [c.rank, c.method, ...generic(board.columns.filter((n) => !["rank", "rank_last", "method"].includes(n)), board.rows)], board.rows, peers, "All that the CSV of the board has, under its names."]);
    return views;
  }
  const ABOUT = {
    "uniform": "One protocol and network for all methods: the one under which most were measured.",
    "equal-bytes": "The best row of each method within so many shipped bytes, labels included; chosen by test accuracy, which flatters a method with many rows a little.",
    "cost": "What the accuracy costs to make: means over distillations, the largest peak. Unbeaten: no other row of the same machine is at least as accurate for no more; memory on a GPU only, since a CPU’s peak is that of the whole process.",
    "cross-architecture": "Accuracy on networks that the sets were not made with: transfer is the mean over networks that are nobody’s own, drop what the own network has more.",
  };
  const rankText = (r) => {
    if (absent(r.rank)) return DASH;
    const last = absent(r.rank_last) ? r.rank : r.rank_last;
    return `${r.rank}${last === r.rank ? "" : `${DASH}${last}`}${r.distillations === 1 && r.n > 1 ? "*" : ""}`;
  };
  function pictureButton(row) {
    const mine = row.details ? row.details.records.map((r) => setsByKey.get(r.set)).filter(Boolean) : [];
    if (!mine.length) return DASH;
    return h("button", { type: "button", class: "link", "aria-haspopup": "dialog", "aria-label": `Images of ${row.method}, ipc ${ipcText(row.ipc)}`, onclick: () => openViewer(mine[0]) }, "view");
  }

  function detailsOf(row) {
    const d = row.details;
    if (!d) return [h("p", { class: "quiet" }, "No record of this row is at hand.")];
    const machines = unique(d.records.map((r) => r.machine)).map((i) => data.machines[i]);
    const joined = (values) => unique(values.filter((v) => !absent(v)).map(String)).join(", ");
    const settings = Object.entries(data.notes[d.settings] || {});
    return [
      h("div", { class: "wide" }, h("h4", null, "To repeat this row"), command(d.command)),
      h("div", null, h("h4", null, "Provenance"), facts([
        ["revision", joined(machines.map((m) => m.revision))],
        ["versions", unique(machines.map((m) => `ddbench ${m.ddbench}, Python ${m.python}, torch ${m.torch}, torchvision ${m.torchvision}`)).join("; ")],
        ["device", joined(machines.map((m) => [m.device, m.device_name].filter(Boolean).join(", ")))],
        ["platform", joined(machines.map((m) => m.platform))],
        ["threads", joined(machines.map((m) => m.threads))],
        ["precision", joined(machines.map((m) => m.precision))],
        ["engine", joined(machines.map((m) => m.engine))],
        ["data", row.data_fingerprint],
        ["labelled by", joined(d.records.map((r) => r.labelled_by.join(" + ")))],
        ["whitened images", absent(d.whitened) ? null : d.whitened ? "yes" : "no"],
        ["recipe from", d.recipe_source],
      ])),
      h("div", null, h("h4", null, "Settings as run"),
        settings.length ? h("p", { class: "small" }, h("code", null, settings.map(([k, v]) => `${k}=${typeof v === "string" ? v : JSON.stringify(v)}`).join("  "))) : h("p", { class: "small quiet" }, "none"),
        d.notes.length ? [h("h4", null, "Notes"), d.notes.map((i) => h("p", { class: "small" }, data.notes[i]))] : null),
      h("div", { class: "wide" }, h("h4", null, "Distillations"), h("div", { class: "inner" }, h("table", null,
        h("thead", null, h("tr", null, ["Seed", "Mean, %", "Students, %", "Distilled in", "Evaluated in", "When", "Record", "Set"].map((t, i) => h("th", { scope: "col", class: i === 1 || i === 3 || i === 4 ? "num" : null }, t)))),
        h("tbody", null, d.records.map((r) => h("tr", null,
          h("td", null, String(r.seed), r.status === "partial" ? h("span", { class: "tag" }, "partial") : null),
          h("td", { class: "num" }, fixed(mean(r.values), 2)),
          h("td", null, r.values.map((v) => fixed(v)).join("  ")),
          h("td", { class: "num" }, seconds(r.distil_s)),
          h("td", { class: "num" }, seconds(r.evaluate_s)),
          h("td", null, absent(r.created) ? DASH : r.created.slice(0, 16).replace("T", " ")),
          h("td", null, h("code", null, r.key)),
          h("td", null, setsByKey.has(r.set)
            ? h("button", { type: "button", class: "link", "aria-haspopup": "dialog", onclick: () => openViewer(setsByKey.get(r.set)) }, "view images")
            : h("code", null, r.fingerprint || DASH)))))))),
    ];
  }

  function boardTable(board) {
    const views = columnsOf(board);
    let [, , columns, rows, parts] = views[0];
    const table = sortable({
      caption: `Board of ${board.dataset}`,
      columns, rows, parts,
      detail: { name: (r) => `${r.method}, ipc ${ipcText(r.ipc)}, ${r.protocol}`, node: detailsOf },
    });
    const wanted = { text: "", protocol: "", network: "", ipc: "", method: "" };
    const said = h("output", { class: "said", "aria-live": "polite" });
    const about = h("p", { class: "small quiet", hidden: true });
    const tell = (n) => { said.textContent = n === rows.length ? plural(n, "row") : `${whole(n)} of ${plural(rows.length, "row")}`; };
    const apply = () => {
      const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
      tell(table.filter((r) =>
        words.every((w) => r.text.includes(w)) &&
        (!wanted.protocol || r.protocol === wanted.protocol) &&
        (!wanted.network || absent(r.network) || r.network === wanted.network) &&
        (!wanted.ipc || String(r.ipc) === wanted.ipc)));
    };
    const search = h("input", { type: "search", placeholder: "method, recipe, labels …", autocomplete: "off", spellcheck: "false" });
    search.addEventListener("input", () => { wanted.text = search.value; apply(); });
    const picks = (label, key, values, text) =>
      select(label, [["", "all"], ...values.map((v) => [String(v), text ? text(v) : String(v)])], (v) => { wanted[key] = v; apply(); })[0];
    const of = (key) => unique(board.rows.map((r) => r[key])).sort((a, b) => collator.compare(a, b));
    apply();
    return [
      h("div", { class: "tools" },
        choice("Board", views.map(([key, title]) => [key, title]), "rows", (key) => {
          const view = views.find(([k]) => k === key);
          [, , columns, rows, parts] = view;
          about.textContent = view[5];
          about.hidden = !view[5];
          tell(table.show(columns, rows, parts));
        }, true)),
      h("div", { class: "tools" },
        h("label", null, "Filter", search),
        picks("Protocol", "protocol", of("protocol")),
        of("network").length > 1 ? picks("Network", "network", of("network")) : null,
        picks("IPC", "ipc", of("ipc"), ipcText),
        said),
      about,
      table.node,
      h("p", { class: "small quiet" },
        "A rank is the range of places that a row may hold: rows whose difference is not significant share places; * is tested by the students of one set only. ",
        board.rows.some((r) => !r.comparable) ? "† The protocol is ddbench’s own: not comparable with published numbers." : ""),
    ];
  }

  // ------------------------------------------------------------------------------- images

  const pictures = new Map();
  function picture(sheet) {
    if (!pictures.has(sheet)) {
      pictures.set(sheet, new Promise((done, failed) => {
        const image = new Image();
        image.onload = () => done(image);
        image.onerror = () => failed(new Error("a picture of this page cannot be read"));
        image.src = sheet.png;
      }));
    }
    return pictures.get(sheet);
  }
  /* Where the tiles of a sheet go: classes side by side where they are few, else under each other, else in a block. */
  function arranged(sheet, small) {
    const rows = sheet.counts.length;
    const named = sheet.titles.some((t) => t) && !small;
    const block = sheet.columns === 1 && (small || rows > 12);
    const kind = block ? "block" : rows <= 12 ? "columns" : "rows";
    const wide = small ? Math.ceil(Math.sqrt(rows)) : Math.min(rows, 10);
    const at = {
      columns: (row, i) => [row, i],
      rows: (row, i) => [i, row],
      block: (row) => [row % wide, Math.floor(row / wide)],
    }[kind];
    const size = { columns: [rows, sheet.columns], rows: [sheet.columns, rows], block: [wide, Math.ceil(rows / wide)] }[kind];
    return { kind: named ? kind : kind === "block" ? "block" : kind + "-plain", at, across: size[0], down: size[1] };
  }
  async function paint(node, sheet, tileWidth, tileHeight, gap, most) {
    const { at, across, down } = arranged(sheet, Boolean(most));
    const ratio = window.devicePixelRatio || 1;
    const rows = Math.min(down, most || down);
    const [w, t] = [across * (tileWidth + gap) - gap, rows * (tileHeight + gap) - gap];
    node.width = Math.round(w * ratio);
    node.height = Math.round(t * ratio);
    node.style.width = `${w}px`;
    node.style.height = `${t}px`;
    const image = await picture(sheet);
    const brush = node.getContext("2d");
    brush.imageSmoothingEnabled = tileWidth * ratio < sheet.width;
    brush.imageSmoothingQuality = "high";
    sheet.counts.forEach((count, row) => {
      for (let i = 0; i < count; i++) {
        const [cx, cy] = at(row, i);
        if (cy >= rows) continue;
        const [x0, y0] = [Math.round(cx * (tileWidth + gap) * ratio), Math.round(cy * (tileHeight + gap) * ratio)];
        brush.drawImage(image, i * sheet.width, row * sheet.height, sheet.width, sheet.height, x0, y0, Math.round(tileWidth * ratio), Math.round(tileHeight * ratio));
      }
    });
  }
  function tileSize(sheet, across, room, gap, largest) {
    let width = Math.min(largest, (room - (across - 1) * gap) / across);
    if (width >= sheet.width) width = Math.floor(width / sheet.width) * sheet.width; // whole pixels look best
    width = Math.max(4, Math.floor(width));
    return [width, Math.max(4, Math.round((width * sheet.height) / sheet.width))];
  }
  function sheetFigure(sheet, title, about, room) {
    const { kind, across } = arranged(sheet);
    const left = kind === "rows" ? 72 : 0;
    const gap = 2;
    const [tw, th] = tileSize(sheet, across, room - left, gap, 64);
    const node = h("canvas", { role: "img", "aria-label": `${title}. ${about}` });
    const frame = h("div", { class: "frame" });
    if (kind === "columns" || kind === "rows") {
      const names = h("div", { class: `names ${kind === "columns" ? "top" : "left"}`, "aria-hidden": "true" },
        sheet.titles.map((t) => h("span", { title: t }, t)));
      if (kind === "columns") {
        names.style.gridTemplateColumns = `repeat(${across}, ${tw}px)`;
        names.style.columnGap = `${gap}px`;
      } else {
        names.style.gridAutoRows = `${th}px`;
        names.style.rowGap = `${gap}px`;
      }
      frame.append(names);
    }
    frame.append(node);
    paint(node, sheet, tw, th, gap).catch((error) => { frame.replaceChildren(error.message); });
    return h("figure", null, h("figcaption", null, h("b", null, title), h("br"), h("span", { class: "quiet" }, about)), frame);
  }
  function howMany(sheet) {
    const shown = sum(sheet.counts);
    const classes = sheet.counts.length;
    const all = sheet.total && shown >= sheet.total;
    const each = Math.max(...sheet.counts);
    const parts = all ? `all ${plural(shown, "image")}` : `${whole(shown)} of ${plural(sheet.total || shown, "image")}: the first ${each === 1 ? "" : `${each} `}of ` +
      (sheet.classes > classes ? `each of the first ${classes} of ${sheet.classes} classes` : "each class");
    return parts;
  }
  const setTitle = (t) => `${t.method}, ${t.dataset}, ipc ${ipcText(t.ipc)}, seed ${t.seed}`;
  const setScores = (t) => t.scores.map((r) => `${fixed(r.mean)} % under ${r.protocol} with ${r.network}`);

  const viewer = document.getElementById("viewer");
  const sheets = document.getElementById("viewer-sheets");
  let current = -1;
  let opener = null;
  const viewed = data.sets;

  function drawViewer() {
    const t = viewed[current];
    document.getElementById("viewer-title").textContent = setTitle(t);
    const scores = setScores(t);
    const bytesOf = t.scores.map((r) => r.bytes).find((b) => !absent(b));
    document.getElementById("viewer-facts").textContent = [
      `recipe ${t.recipe || DASH}${t.overrides ? ` + ${t.overrides}` : ""}`,
      t.partial ? "partial" : null,
      absent(bytesOf) ? null : bytes(bytesOf),
      t.codec === "identity" ? null : `codec ${t.codec}`,
      t.whitened ? "learned on whitened images" : null,
      scores.length ? scores.slice(0, 3).join("; ") + (scores.length > 3 ? ` and ${scores.length - 3} more` : "") : "no score",
    ].filter(Boolean).join(" · ");
    document.getElementById("viewer-place").textContent = `${current + 1} of ${viewed.length}`;
    const room = sheets.clientWidth - 42;
    const side = room >= 780 ? (room - 40) / 2 : room;
    const real = data.real[t.dataset];
    sheets.replaceChildren(
      sheetFigure(t, "Distilled", howMany(t), side),
      real && real.png ? sheetFigure(real, "Real", howMany(real), side)
        : h("figure", null, h("figcaption", null, h("b", null, "Real"), h("br"), h("span", { class: "quiet" }, real ? real.reason : "not drawn"))));
  }
  function openViewer(t) {
    opener = document.activeElement;
    current = viewed.indexOf(t);
    viewer.showModal();
    document.documentElement.style.overflow = "hidden";
    drawViewer();
    document.getElementById("viewer-close").focus();
  }
  function step(by) {
    current = (current + by + viewed.length) % viewed.length;
    drawViewer();
  }
  function otherIpc(way) {
    const t = viewed[current];
    const twins = viewed.filter((o) => o.dataset === t.dataset && o.method === t.method && o.seed === t.seed && o.overrides === t.overrides && o.recipe === t.recipe);
    const twin = twins.length > 1 ? twins : viewed.filter((o) => o.dataset === t.dataset && o.method === t.method && o.seed === t.seed);
    const at = twin.indexOf(t);
    const next = twin[at + way];
    if (next) { current = viewed.indexOf(next); drawViewer(); }
  }
  viewer.addEventListener("keydown", (event) => {
    const act = {
      ArrowRight: () => step(1), ArrowLeft: () => step(-1), ArrowDown: () => otherIpc(1), ArrowUp: () => otherIpc(-1),
      Home: () => { current = 0; drawViewer(); }, End: () => { current = viewed.length - 1; drawViewer(); },
    }[event.key];
    if (!act || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    act();
  });
  viewer.addEventListener("close", () => {
    document.documentElement.style.overflow = "";
    sheets.replaceChildren();
    if (opener && opener.isConnected) opener.focus();
    opener = null;
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  document.getElementById("viewer-close").addEventListener("click", () => viewer.close());
  document.getElementById("viewer-back").addEventListener("click", () => step(-1));
  document.getElementById("viewer-next").addEventListener("click", () => step(1));
  let resized = 0;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => { if (viewer.open) drawViewer(); }, 120);
  });

  function gallery(dataset) {
    const mine = data.sets.filter((t) => t.dataset === dataset);
    if (!mine.length) return null;
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        seen.unobserve(entry.target);
        entry.target.drawThumb();
      }
    }, { rootMargin: "400px" });
    const cards = mine.map((t) => {
      const { across, down } = arranged(t, true);
      const node = h("canvas", { "aria-hidden": "true" });
      const frame = h("span", { class: "thumb" }, node);
      frame.drawThumb = () => {
        const rows = Math.min(down, Math.max(across, 6));
        const room = Math.max(60, frame.clientWidth - 10);
        const side = Math.max(3, Math.floor((room + 1) / Math.max(across, rows)) - 1);
        const fit = Math.min(side / t.width, side / t.height);
        const [tw, th] = [Math.max(3, Math.round(t.width * fit)), Math.max(3, Math.round(t.height * fit))];
        paint(node, t, tw, th, 1, rows).catch(() => { frame.textContent = DASH; });
      };
      seen.observe(frame);
      return h("li", null, h("button", { type: "button", "aria-haspopup": "dialog", "aria-label": `Images of ${setTitle(t)}`, "data-set": t.set, onclick: () => openViewer(t) },
        frame,
        h("b", null, swatch(t.method), " ", t.method, t.partial ? h("span", { class: "tag" }, "partial") : null),
        h("span", null, `ipc ${ipcText(t.ipc)}, seed ${t.seed}${t.scores.length === 1 ? `, ${fixed(t.scores[0].mean)} %` : ""}`),
        t.scores.length > 1 ? h("span", null, t.scores.slice(0, 2).map((r) => `${fixed(r.mean)} % ${r.protocol}`).join(", ") + (t.scores.length > 2 ? " …" : "")) : null,
        t.overrides ? h("span", null, clipped(t.overrides, 40)) : null));
    });
    return [h("h3", { id: `images-${slug(dataset)}`, class: "screen" }, "Images"), h("p", { class: "small quiet screen" }, "Open a set to see its images beside real ones."), h("ul", { class: "gallery" }, cards)];
  }

  // ------------------------------------------------------------------------------- traces

  function tracePlot(lines, over, width, height, title, label, visible) {
    const shown = lines.filter((l) => visible(l.trace.method));
    const svg = canvas(width, height, label);
    if (!shown.length) return svg;
    const xs = (l) => (over === "iteration" ? l.line.x : l.line.s);
    const finite = (v) => v !== null && Number.isFinite(v);
    const values = shown.flatMap((l) => l.line.y).filter(finite);
    const ends = shown.flatMap((l) => xs(l)).filter(finite);
    if (!values.length || !ends.length) return svg;
    let [low, high] = [Math.min(...values), Math.max(...values)];
    const accuracy = title === "accuracy";
    const log = !accuracy && low > 0 && high > 50 * low;
    if (!log) {
      const pad = 0.06 * (high - low) || Math.abs(high) * 0.05 || 1;
      [low, high] = [low - pad, high + pad];
      if (accuracy) [low, high] = [Math.max(0, low), Math.min(100, high)];
    }
    const ticks = log ? logTicks(low, high, 4) : linearTicks(low, high, 4);
    const texts = ticks.map((t) => (accuracy ? String(t) : short(t)));
    const left = 10 + Math.max(14, ...texts.map(wide));
    const [right, top, bottom] = [8, 8, height - 34];
    const y = scale(low, high, bottom, top, log);
    const x = scale(Math.min(0, ...ends), Math.max(...ends), left + 4, width - right);
    ticks.forEach((tick, i) => {
      svg.append(s("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
      svg.append(s("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, texts[i]));
    });
    for (const tick of linearTicks(Math.min(0, ...ends), Math.max(...ends), (width - left) / 75))
      svg.append(s("text", { x: x(tick), y: bottom + 15, "text-anchor": "middle" }, whole(tick)));
    svg.append(s("line", { class: "axis", x1: left, x2: width - right, y1: bottom, y2: bottom }));
    svg.append(s("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, over === "iteration" ? "iterations" : "seconds"));
    const points = [];
    const clamp = (v) => Math.max(top, Math.min(bottom, y(log ? Math.max(v, low / 10) : v)));
    for (const l of shown) {
      const { colour } = look(l.trace.method);
      const at = xs(l).map((v, i) => ({ l, i, px: x(v), py: y(l.line.y[i]) })).filter((p) => Number.isFinite(p.px) && Number.isFinite(p.py));
      if (l.line.low) {
        const up = at.map((p) => `${p.px.toFixed(1)},${clamp(l.line.high[p.i]).toFixed(1)}`);
        const down = at.map((p) => `${p.px.toFixed(1)},${clamp(l.line.low[p.i]).toFixed(1)}`).reverse();
        svg.append(s("polygon", { points: [...up, ...down].join(" "), fill: colour, "fill-opacity": 0.13 }));
      }
      svg.append(s("polyline", { points: at.map((p) => `${p.px.toFixed(1)},${p.py.toFixed(1)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 1.4, "stroke-linejoin": "round" }));
      if (accuracy || at.length === 1) for (const p of at) svg.append(marker(l.trace.method, p.px, p.py, 3.2));
      points.push(...at);
    }
    reachable(svg, points, ({ l, i }) => [
      `${l.trace.method}, seed ${absent(l.trace.seed) ? DASH : l.trace.seed}${l.trace.overrides ? ` (${l.trace.overrides})` : ""}`,
      accuracy ? `${fixed(l.line.y[i])} %, ${plural(l.line.students || 1, "student")}` : `${l.line.quantity} ${short(l.line.y[i])}${l.line.each ? `, mean of ${l.line.each} iterations (${short(l.line.low[i])} to ${short(l.line.high[i])})` : ""}`,
      `iteration ${whole(Math.round(l.line.x[i]))}${absent(l.line.s[i]) ? "" : `, after ${seconds(l.line.s[i])}`}`,
    ].join("\n"));
    return svg;
  }

  function traces(dataset, hiddenMethods, redraws) {
    const mine = data.traces.filter((t) => t.dataset === dataset);
    if (!mine.length) return null;
    let over = "iteration";
    const visible = (m) => !hiddenMethods.has(m);
    const agains = [];
    const figure = (caption, lines, height, title, label) => {
      const holder = h("div");
      const again = drawn(holder, (width) => holder.replaceChildren(tracePlot(lines, over, width, height, title, label, visible)));
      redraws.push(again);
      agains.push(again);
      return h("figure", null, h("figcaption", null, caption), holder);
    };
    const blocks = unique(mine.map((t) => t.ipc)).sort((a, b) => a - b).map((ipc) => {
      const here = mine.filter((t) => t.ipc === ipc);
      const lines = here.flatMap((trace) => trace.lines.map((line) => ({ trace, line })));
      const scored = lines.filter((l) => l.line.quantity === "top1_pct");
      const pairs = unique(scored.map((l) => JSON.stringify([l.line.protocol, l.line.network])));
      const logged = unique(lines.filter((l) => l.line.quantity !== "top1_pct").map((l) => JSON.stringify([l.trace.method, l.trace.overrides, l.line.quantity])));
      return h("div", { class: "block" },
        h("h4", null, `ipc ${ipcText(ipc)}`),
        h("div", { class: "panels" },
        pairs.map((pair) => {
          const [protocol, network] = JSON.parse(pair);
          const own = scored.filter((l) => l.line.protocol === protocol && l.line.network === network);
          return figure([h("b", null, "Accuracy of snapshots, %"), ` ${protocol}, ${network}`], own, 220, "accuracy",
            `Accuracy of snapshots over the distillation, ${dataset}, ipc ${ipcText(ipc)}; arrow keys go through the points`);
        }),
        h("div", { class: "panels small" }, logged.map((text) => {
          const [method, overrides, quantity] = JSON.parse(text);
          const own = lines.filter((l) => l.trace.method === method && l.trace.overrides === overrides && l.line.quantity === quantity);
          return figure([swatch(method), " ", h("b", null, method), ` ${quantity}${overrides ? `, ${overrides}` : ""}`, own.length > 1 ? h("span", { class: "quiet" }, `, ${own.length} seeds`) : null],
            own, 150, "value", `${quantity} of ${method} over the distillation, ${dataset}, ipc ${ipcText(ipc)}; arrow keys go through the points`);
        }))));
    });
    const averaged = mine.some((t) => t.lines.some((l) => l.each));
    return [
      h("h3", null, "How the distillations went"),
      h("div", { class: "tools" }, choice("Over", [["iteration", "iterations"], ["seconds", "seconds"]], over, (v) => { over = v; agains.forEach((a) => a()); })),
      blocks,
      averaged ? h("p", { class: "small quiet" }, "Long traces are shown as means of equal stretches; the band spans their extremes.") : null,
    ];
  }

  // ------------------------------------------------------------------------------- claims

  const VERDICTS = [["reproduced", "●"], ["below", "▼"], ["above", "▲"], ["not comparable", "◇"], ["not run", "○"], ["no recipe", "–"]];
  function claims() {
    const rows = data.claims.rows.map((r) => ({ ...r, text: [r.claim.method, r.claim.dataset, r.claim.protocol, r.claim.network, r.claim.paper, r.claim.source, r.claim.id].join(" ").toLowerCase() }));
    if (!rows.length) {
      return [h("p", null, `No published number speaks of these data sets${data.claims.elsewhere ? ` (${whole(data.claims.elsewhere)} speak of others)` : ""}.`)];
    }
    const order = new Map(VERDICTS.map(([v], i) => [v, i]));
    const place = (v) => (order.has(v) ? order.get(v) : VERDICTS.length);
    rows.sort((a, b) => place(a.verdict) - place(b.verdict) || collator.compare(a.claim.dataset, b.claim.dataset) || (a.claim.ipc || 0) - (b.claim.ipc || 0) || collator.compare(a.claim.method, b.claim.method));
    const measured = rows.filter((r) => !absent(r.mean));
    const c = (key) => (r) => r.claim[key];
    const text = (key, title, more) => ({ key, title, kind: "text", value: c(key), cell: (r) => (absent(r.claim[key]) ? DASH : String(r.claim[key])), ...more });
    const columns = [
      { key: "verdict", title: "Verdict", kind: "text", value: (r) => String(place(r.verdict)), cell: (r) => h("span", { class: `verdict ${r.verdict.replace(" ", "-")}` }, `${(VERDICTS.find(([v]) => v === r.verdict) || ["", ""])[1]} ${r.verdict}`) },
      text("method", "Method", { stick: true, cell: (r) => [swatch(r.claim.method), " ", r.claim.method] }),
      text("dataset", "Data"),
      { key: "ipc", title: "IPC", kind: "num", first: 1, value: c("ipc"), cell: (r) => ipcText(r.claim.ipc) },
      { key: "value", title: "Published, %", kind: "num", value: c("value"), cell: (r) => spread(r.claim.value, r.claim.std) },
      { key: "mean", title: "Measured, %", kind: "num", value: (r) => r.mean, cell: (r) => [spread(r.mean, r.std), absent(r.mean) ? null : h("span", { class: "std" }, ` n=${r.n}`)] },
      { key: "strip", title: "−10 to +10 points", kind: "text", value: null, cell: claimStrip },
      { key: "gap", title: "Gap", kind: "num", value: (r) => r.gap, cell: (r) => signed(r.gap), help: "Measured less published, in points" },
      { key: "gap_errors", title: "Gap, s.e.", kind: "num", value: (r) => r.gap_errors, cell: (r) => signed(r.gap_errors), help: "In combined standard errors" },
      { key: "recipe", title: "Recipe", kind: "text", value: (r) => r.recipe, cell: (r) => r.recipe || DASH },
      text("protocol", "Protocol"),
      text("network", "Network"),
      { key: "paper", title: "Source", kind: "text", value: c("paper"), cell: (r) => [r.claim.paper, r.claim.quoted ? h("span", { class: "faint" }, " quoted") : null] },
      { key: "reason", title: "Why", kind: "text", value: null, cell: (r) => (r.reason || r.note ? h("span", { title: r.reason || r.note }, clipped(r.reason || r.note, 48)) : DASH) },
    ];
    const table = sortable({
      caption: "Published numbers beside measured ones",
      columns, rows, most: 150,
      parts: (r) => r.verdict,
      detail: { name: (r) => `${r.claim.method}, ${r.claim.dataset}, ipc ${ipcText(r.claim.ipc)}`, node: claimDetails },
    });
    const wanted = { text: "", verdict: measured.length ? "measured" : "", dataset: "" };
    const said = h("output", { class: "said", "aria-live": "polite" });
    const apply = () => {
      const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
      const n = table.filter((r) => words.every((w) => r.text.includes(w)) &&
        (!wanted.dataset || r.claim.dataset === wanted.dataset) &&
        (!wanted.verdict || (wanted.verdict === "measured" ? !absent(r.mean) : r.verdict === wanted.verdict)));
      said.textContent = `${whole(n)} of ${plural(rows.length, "claim")}`;
    };
    const search = h("input", { type: "search", placeholder: "method, paper, protocol …", autocomplete: "off", spellcheck: "false" });
    search.addEventListener("input", () => { wanted.text = search.value; apply(); });
    const [verdictLabel, verdictSelect] = select("Verdict", [["", "all"], ["measured", "measured ones"], ...VERDICTS.map(([v]) => [v, v])], (v) => { wanted.verdict = v; apply(); });
    verdictSelect.value = wanted.verdict;
    const datasets = unique(rows.map((r) => r.claim.dataset)).sort();
    apply();
    return [
      h("ul", { class: "figures" }, VERDICTS.map(([v, mark]) => h("li", null, h("b", { class: `verdict ${v.replace(" ", "-")}` }, whole(rows.filter((r) => r.verdict === v).length)), h("span", null, `${mark} ${v}`)))),
      h("p", { class: "small quiet" }, "A verdict needs the authors’ recipe under the authors’ protocol: reproduced is a gap of at most one point or two combined standard errors. ",
        data.claims.elsewhere ? `${plural(data.claims.elsewhere, "published number")} of other data sets, or of what ddbench does not have, ${data.claims.elsewhere === 1 ? "is" : "are"} not listed.` : ""),
      h("div", { class: "tools" }, h("label", null, "Filter", search), verdictLabel,
        datasets.length > 1 ? select("Data", [["", "all"], ...datasets.map((d) => [d, d])], (v) => { wanted.dataset = v; apply(); })[0] : null, said),
      table.node,
      h("p", { class: "small quiet" }, "In the picture of the gap the line is the published number, shaded is one point either way, the bar two standard errors of the measured mean; an arrow points to gaps beyond ten points."),
    ];
  }
  /* The gap: 0 is what was published; shaded is what counts as reproduced whatever the errors. */
  function claimStrip(r) {
    if (absent(r.gap)) return DASH;
    const x = scale(-10, 10, 6, 134);
    const svg = s("svg", { class: "strip", width: 140, height: 16, role: "img", "aria-label": `gap ${signed(r.gap)}` });
    svg.append(s("rect", { x: x(-1), y: 1, width: x(1) - x(-1), height: 14, fill: "var(--rule)" }));
    svg.append(s("line", { class: "grid", x1: 6, x2: 134, y1: 8, y2: 8 }), s("line", { class: "axis", x1: x(0), x2: x(0), y1: 1, y2: 15 }));
    const { colour } = look(r.claim.method);
    const error = absent(r.error) ? null : 2 * r.error;
    if (Math.abs(r.gap) > 10) {
      const way = Math.sign(r.gap);
      const at = way > 0 ? 134 : 6;
      svg.append(s("path", { d: `M${at} 8l${-7 * way} -4.5v9z`, fill: colour }));
      return svg;
    }
    if (error) svg.append(s("line", { x1: x(Math.max(-10, r.gap - error)), x2: x(Math.min(10, r.gap + error)), y1: 8, y2: 8, stroke: colour, "stroke-width": 2.4, "stroke-opacity": 0.7 }));
    svg.append(marker(r.claim.method, x(r.gap), 8, 4.2));
    return svg;
  }
  function claimDetails(r) {
    const k = r.claim;
    const external = (k.external || []).length > 0;
    return [
      external || k.task ? null : h("div", { class: "wide" }, h("h4", null, "To measure it"), command(`ddbench reproduce ${quoted(k.method)} --dataset ${quoted(k.dataset)} --ipc ${k.ipc} --claim ${quoted(k.id)}`)),
      h("div", null, h("h4", null, "Published"), facts([
        ["source", k.source], ["quotes another paper", k.quoted ? "yes" : null], ["protocol", k.protocol], ["network", k.network],
        ["distilled with", k.distill_network], ["labels", k.labels], ["runs", absent(k.n) ? "not said" : k.n], ["of", k.chosen === "last" ? "the last epoch" : k.chosen === "unstated" ? "not said which epoch" : `the ${k.chosen.replace("-", " ")}, chosen on test data`],
        ["whitened", absent(k.zca) ? null : k.zca ? "yes" : "no"], ["resolution", k.resolution], ["note", k.note], ["id", k.id],
      ])),
      h("div", null, h("h4", null, "Measured"), absent(r.mean) ? h("p", { class: "small" }, r.reason || "Nobody has run it.") : facts([
        ["mean", `${fixed(r.mean, 2)} %${absent(r.std) ? "" : ` ± ${fixed(r.std, 2)}`}, ${plural(r.n, "student")} of ${plural(r.sets, "set")}`],
        ["standard error", absent(r.error) ? "none: a single value" : fixed(r.error, 2)],
        ["why", r.reason], ["note", r.note], ["recipe", r.recipe], ["cost", `${seconds(r.seconds)}, peak ${fixed(r.peak_mib, 0)} MiB`], ["device", r.device], ["revision", r.revision],
        ["records", h("span", null, (r.records || []).map((key, i) => [i ? ", " : "", h("code", null, key)]))],
      ])),
    ];
  }
  const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${String(word).replaceAll("'", "'\"'\"'")}'`);

  // ------------------------------------------------------------------------------- the page

  const slug = (text) => String(text).toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const main = document.getElementById("main");

  function overview() {
    const o = data.overview;
    const status = Object.entries(o.status).map(([k, n]) => `${whole(n)} ${k}`).join(", ");
    const days = unique([date(o.first), date(o.last)]).join(" to ");
    const machine = (m) => h("tr", null,
      h("td", { class: "num" }, whole(m.records)),
      h("td", null, [m.device, m.device_name].filter(Boolean).join(", ") || DASH),
      h("td", { class: "num" }, m.threads ? whole(m.threads) : DASH),
      h("td", null, `ddbench ${m.ddbench}`), h("td", null, m.python || DASH), h("td", null, m.torch || DASH), h("td", null, m.platform || DASH));
    return h("section", { id: "overview", "aria-labelledby": "overview-title" },
      h("h1", { id: "overview-title" }, "Dataset distillation, measured"),
      h("p", { class: "quiet" }, `${plural(o.methods.length, "method")} on ${o.datasets.join(", ")}; records of ${days}.`),
      h("ul", { class: "figures" }, [[whole(o.records), "records"], [whole(o.sets), o.set_files ? "distilled sets" : `sets scored; no set files in ${o.folders.join(", ")}`], [whole(o.students), "students trained and tested"],
        [seconds(o.seconds.distil_s), "of distillation"], [seconds(o.seconds.evaluate_s), "of evaluation"]].map(([n, t]) => h("li", null, h("b", null, n), h("span", null, t)))),
      facts([
        ["records", status],
        ["methods", o.methods.join(", ")],
        ["data sets", o.datasets.join(", ")],
        ["images per class", o.ipc.join(", ")],
        ["protocols", o.protocols.join(", ")],
        ["students", o.networks.join(", ")],
        ["run folders", o.folders.join(", ")],
        ["revisions", o.revisions.length > 4 ? h("details", null, h("summary", null, plural(o.revisions.length, "revision")), h("ul", null, o.revisions.map((r) => h("li", null, h("code", null, r))))) : o.revisions.join(", ") || DASH],
        ["page made by", `ddbench ${data.version}`],
      ]),
      h("h3", null, "Machines"),
      h("div", { class: "edge" }, scrolling(h("div", { class: "box flat", tabindex: "0", role: "region", "aria-label": "Machines" }, h("table", null, h("caption", { class: "hidden" }, "Machines and versions"),
        h("thead", null, h("tr", null, ["Records", "Device", "Threads", "Version", "Python", "torch", "Platform"].map((t, i) => h("th", { scope: "col", class: i === 0 || i === 2 ? "num" : null }, h("span", null, t))))),
        h("tbody", null, o.machines.map(machine)))))),
      data.left_out.length ? h("details", null, h("summary", null, `${plural(data.left_out.length, "thing")} left out of this page`), h("ul", null, data.left_out.map((t) => h("li", null, t)))) : null);
  }

  function dataset(board) {
    const hiddenMethods = new Set();
    const redraws = [];
    const names = unique([...board.rows.filter((r) => !r.full).map((r) => r.method), ...data.traces.filter((t) => t.dataset === board.dataset).map((t) => t.method)]).sort();
    const id = slug(board.dataset);
    const fingerprints = unique(board.rows.map((r) => r.data_fingerprint).filter(Boolean));
    return h("section", { class: "set", id, "aria-labelledby": `${id}-title` },
      h("h2", { id: `${id}-title` }, board.dataset),
      h("p", { class: "quiet small" }, [board.classes ? plural(board.classes, "class").replace("classs", "classes") : null, plural(board.rows.length, "row"), fingerprints.length ? `data ${fingerprints.join(", ")}` : null,
        board.superseded ? `${plural(board.superseded, "older record")} of cells measured again left out` : null].filter(Boolean).join(" · ")),
      names.length ? legend(names, hiddenMethods, () => redraws.forEach((again) => again())) : null,
      plots(board, hiddenMethods, redraws),
      board.rows.length ? [h("h3", null, "Board"), boardTable(board)] : h("p", null, "No cell of this data set has a score yet."),
      board.without_score.length ? h("details", null, h("summary", null, `${plural(board.without_score.length, "cell")} without a score`), h("ul", null, board.without_score.map((t) => h("li", null, t)))) : null,
      gallery(board.dataset),
      traces(board.dataset, hiddenMethods, redraws));
  }

  const reading = () => h("section", { id: "reading", class: "set", "aria-labelledby": "reading-title" },
    h("h2", { id: "reading-title" }, "How to read this page"),
    facts([
      ["top-1", "Accuracy on the untouched test set after the last epoch, in percent: mean ± population deviation over all students of all distillations."],
      ["95 % interval", "Student’s t over distillations, the students of one distillation averaged first; a single distillation has none."],
      ["vs random", "Difference from random real images at the same ipc, protocol and network, paired by seed; under teacher labels only where the same networks labelled both."],
      ["% of full", "Share of the accuracy of the same network trained on all the data, under a step-capped protocol."],
      ["rank", "Among rows of the same protocol, version, network, ipc, precision and data."],
      ["bytes", "Images, labels, codec, space and program of the set. What must stand beside it (teachers, full data) is told apart."],
      ["peak", "Memory of tensors on a GPU; of the whole process on CPU, interpreter and libraries included."],
      ["partial", "The distillation was stopped by its time budget before its end."],
      [DASH, "Not measured, or does not apply."],
    ]));

  const root = document.documentElement;
  const button = document.getElementById("theme");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const told = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to the ${dark() ? "light" : "dark"} theme`); };
  const storage = (act) => { try { return act(localStorage); } catch { return null; } }; // a browser may keep nothing for files
  const kept = storage((l) => l.getItem("ddbench-theme"));
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    storage((l) => l.setItem("ddbench-theme", root.dataset.theme));
    told();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", told);
  told();

  main.append(overview(), ...boards.map(dataset), h("section", { class: "set", id: "claims", "aria-labelledby": "claims-title" }, h("h2", { id: "claims-title" }, "Claims beside measurements"), claims()), reading());
  document.getElementById("nav").append(h("ul", null, [["overview", "Overview"], ...boards.map((b) => [slug(b.dataset), b.dataset]), ["claims", "Claims"], ["reading", "Reading"]]
    .map(([id, text]) => h("li", null, h("a", { href: `#${id}` }, text)))));
  root.dataset.readyMs = (performance.now() - started).toFixed(1);
})();
