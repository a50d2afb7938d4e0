"use strict";
(() => {
  const LINES = 8; // settings that curves and results by class show
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const DATA = (() => { let found; return () => (found ??= JSON.parse($("#data").textContent)); })();

  // el("p", {class: "x"}, "text", node): texts become text nodes, never markup
  const SVG = "http://www.w3.org/2000/svg";
  function make(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  const el = (tag, attributes = {}, ...children) => make(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) => make(document.createElementNS(SVG, tag), attributes, children);

  // Tables

  const boards = all(".board").map((board) => {
    const table = $("table", board);
    const heads = all("thead th", table);
    const rows = all("tbody tr", table);
    const state = { board, table, heads, rows, details: new Map(), keys: heads.map((head) => head.dataset.key) };
    state.words = null; // made at the first filter
    for (const [index, head] of heads.entries()) $("button", head).addEventListener("click", () => sort(state, index));
    $("tbody", table).addEventListener("click", (event) => {
      const button = event.target.closest(".open");
      if (button) toggle(state, button.closest("tr"), button);
    });
    for (const lazy of all(".lazy", board)) lazy.addEventListener("toggle", () => fill(state, lazy));
    return state;
  });
  const value = (row, index) => row.cells[index].dataset.v;
  const entry = (state, row) => DATA().tables[state.board.dataset.table].entries[row.dataset.row];

  function sort(state, index) {
    const head = state.heads[index];
    const now = head.getAttribute("aria-sort");
    const order = now === "ascending" ? "descending" : now === "descending" ? "ascending" : head.dataset.first;
    const sign = order === "ascending" ? 1 : -1;
    const numeric = "numeric" in head.dataset;
    const compare = (a, b) => numeric ? a - b : a.localeCompare(b);
    const keyed = state.rows.map((row) => [value(row, index), row]);
    keyed.sort(([a], [b]) => (a === "") - (b === "") || (a === "" ? 0 : sign * compare(a, b))); // empty ones last
    for (const other of state.heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    state.rows = keyed.map(([, row]) => row);
    const body = document.createDocumentFragment();
    for (const row of state.rows) body.append(row, ...(state.details.has(row) ? [state.details.get(row)] : []));
    $("tbody", state.table).append(body);
    refill(state);
  }

  const SIGNS = {
    ">": (a, b) => a > b, ">=": (a, b) => a >= b, "<": (a, b) => a < b, "<=": (a, b) => a <= b,
    "=": (a, b) => a === b, "!=": (a, b) => a !== b,
  };
  function conditions(text) {
    return text.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      const found = /^(\w+)(>=|<=|!=|=|>|<)(-?[\d.]+)$/.exec(word);
      return (state, row, index) => {
        const column = found ? state.keys.indexOf(found[1]) : -1;
        if (column < 0 || !("numeric" in state.heads[column].dataset)) return state.words[index].includes(word);
        const cell = value(row, column);
        return cell !== "" && SIGNS[found[2]](Number(cell), Number(found[3]));
      };
    });
  }

  function filter() {
    const tests = conditions($("#words").value);
    const front = $("#onfront").checked;
    let shown = 0, total = 0;
    for (const state of boards) {
      const original = state.byNumber ??= [...state.rows].sort((a, b) => a.dataset.row - b.dataset.row);
      if (tests.length) {
        state.words ??= original.map((row) => `${state.table.dataset.words} ${row.textContent}`.toLowerCase());
      }
      const last = state.keys.indexOf("front");
      let here = 0;
      original.forEach((row, index) => {
        const kept = (!front || value(row, last) !== "") && tests.every((test) => test(state, row, index));
        row.hidden = !kept;
        if (state.details.has(row)) state.details.get(row).hidden = !kept;
        here += kept;
      });
      state.board.hidden = !here;
      shown += here;
      total += original.length;
      refill(state);
    }
    for (const section of all(".dataset")) section.hidden = all(".board", section).every((board) => board.hidden);
    $("#count").textContent = `${shown} of ${total} settings`;
    $("#none").hidden = shown > 0 || total === 0;
  }
  let waiting = 0;
  $("#words").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 80); });
  $("#onfront").addEventListener("change", filter);
  $("#filter").addEventListener("submit", (event) => { event.preventDefault(); filter(); });
  function clear() { $("#words").value = ""; $("#onfront").checked = false; filter(); }
  $("#clear").addEventListener("click", () => { clear(); $("#words").focus(); });
  addEventListener("hashchange", () => { // a link to a row or a dataset that the filter hides
    const target = document.getElementById(location.hash.slice(1));
    if (target?.closest("[hidden]")) { clear(); target.scrollIntoView(); }
  });
  if ($("#words").value || $("#onfront").checked) filter(); // browsers keep what was typed over a reload

  // An opened row

  function toggle(state, row, button) {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", open);
    if (!open) {
      state.details.get(row).remove();
      state.details.delete(row);
      button.removeAttribute("aria-controls");
      return;
    }
    const id = `${row.id}-detail`;
    const detail = el("tr", { class: "detail", id },
      el("td", { colspan: row.cells.length }, el("div", { class: "in" }, ...opened(entry(state, row)))));
    row.after(detail);
    state.details.set(row, detail);
    button.setAttribute("aria-controls", id);
  }

  const say = (index) => DATA().texts[index];
  function opened(it) {
    const numbers = [...new Set(it.runs.flatMap((run) => Object.keys(run.numbers)))];
    const facts = [["name", it.name], ...Object.entries(it.facts).map(([name, index]) => [name, say(index)])];
    for (const name of ["device_name", "devices", "versions"]) {
      const found = new Set(it.runs.filter((run) => name in run.facts).map((run) => say(run.facts[name])));
      facts.push([name, [...found].join(" | ")]);
    }
    const reasons = Object.entries(it.reasons).map(([name, index]) => [`no ${name}`, say(index)]);
    const floors = Object.entries(it.floors).map(([metric, values]) =>
      [`floors of ${metric}`, Object.entries(values).map(([name, floor]) => `${name} ${floor}`).join(", ")]);
    const head = ["seed", ...numbers, "date", "commit", "W&B"];
    const rows = it.runs.map((run) => el("tr", {},
      el("th", { scope: "row" }, String(run.seed)),
      ...numbers.map((name) => el("td", { class: "n" }, String(run.numbers[name] ?? ""))),
      el("td", {}, say(run.facts.date)), el("td", {}, el("code", {}, say(run.facts.commit))), wandb(run)));
    const commands = el("ol", {}, ...it.runs.map((run) => el("li", {}, el("code", {}, run.command), copier(run.command))));
    return [
      el("h4", {}, "Every run"),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `runs of ${it.label}` }, el("table", {},
        el("thead", {}, el("tr", {}, ...head.map((name) => el("th", { scope: "col", class: numbers.includes(name) ? "n" : "" }, name)))), el("tbody", {}, ...rows))),
      el("h4", {}, "Commands that make these runs again"), commands,
      el("h4", {}, "Where it comes from"),
      el("dl", {}, ...[...facts, ...floors, ...reasons].flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])),
      ...charts(it.runs.map((run) => ({ label: `seed ${run.seed}`, epochs: run.epochs, curves: run.curves }))),
    ];
  }

  function wandb(run) {
    const url = "wandb_url" in run.facts ? say(run.facts.wandb_url) : "";
    return el("td", {}, /^https:\/\//.test(url) ? el("a", { href: url, rel: "noopener" }, "run") : "");
  }

  function copier(text) {
    const button = el("button", { type: "button", class: "copy", "aria-label": `copy ${text}` }, "copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
      } catch { // no permission, or an old browser
        const area = el("textarea", { class: "sr" });
        area.value = text;
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
        button.focus();
      }
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
    return button;
  }

  // Curves and results by class, of the first rows as they are sorted and filtered

  function refill(state) { for (const lazy of all(".lazy[open]", state.board)) fill(state, lazy); }
  function fill(state, lazy) {
    if (!lazy.open) return;
    const shown = state.rows.filter((row) => !row.hidden);
    const entries = shown.slice(0, LINES).map((row) => entry(state, row));
    const labels = entries.map((it) =>
      entries.filter((other) => other.label === it.label).length > 1 ? it.name.split("/")[1] : it.label);
    const note = shown.length > LINES
      ? [el("p", { class: "note" }, `The first ${LINES} of ${shown.length} rows; sort or filter the table for others.`)] : [];
    const made = lazy.dataset.what === "curves"
      ? charts(entries.map((it, index) => ({ label: labels[index], ...mean(it.runs) })))
      : byName(DATA().tables[state.board.dataset.table].by, entries, labels);
    $("div", lazy).replaceChildren(...note, ...made);
  }

  function mean(runs) { // over the seeds that have as many epochs as the first
    const alike = runs.filter((run) => run.epochs.length === runs[0].epochs.length);
    const curves = {};
    for (const name of Object.keys(runs[0].curves)) {
      const of = alike.map((run) => run.curves[name]).filter(Boolean);
      curves[name] = runs[0].curves[name].map((_, index) => of.reduce((sum, curve) => sum + curve[index], 0) / of.length);
    }
    return { epochs: runs[0].epochs, curves };
  }

  function byName(metrics, entries, labels) {
    return Object.entries(metrics).map(([metric, { title, names }]) => {
      const have = entries.map((it, index) => [it.by[metric], labels[index]]).filter(([values]) => values);
      const rows = names.map((name, at) => el("tr", {}, el("th", { scope: "row" }, name),
        ...have.map(([values]) => el("td", { class: "n" }, values[at] === null ? "" : values[at].toFixed(1)))));
      return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, el("table", { class: "plain" },
        el("caption", {}, el("span", {}, `${title}; mean over the seeds`)),
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, ""),
          ...have.map(([, label]) => el("th", { scope: "col", class: "n" }, label)))), el("tbody", {}, ...rows)));
    });
  }

  const HUES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f"];
  const style = (index) => ({ stroke: HUES[index % 8], "stroke-dasharray": ["", "6 3", "2 3"][Math.floor(index / 8) % 3] });

  function charts(lines) {
    const names = [...new Set(lines.flatMap((line) => Object.keys(line.curves)))];
    if (!names.length) return [];
    const legend = el("ul", { class: "legend" }, ...lines.map((line, index) => el("li", {},
      svg("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" },
        svg("line", { x1: 0, x2: 26, y1: 4, y2: 4, "stroke-width": 3, ...style(index) })), line.label)));
    return [el("h4", {}, "Per epoch"), el("div", { class: "charts" }, ...names.map((name) => chart(name, lines))), legend];
  }

  function ticks(low, high, count) {
    const size = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(size));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= size * 0.999);
    const found = [];
    for (let index = Math.ceil(low / step - 1e-9); index * step <= high + 1e-9 * step; index++) found.push(index * step);
    return found.map((tick) => Number(tick.toPrecision(6)));
  }

  function chart(name, lines) {
    const [width, height, left, right, top, bottom] = [420, 240, 46, 10, 10, 36];
    const drawn = lines.map((line, index) => ({ ...line, index, y: line.curves[name] })).filter((line) => line.y);
    const values = drawn.flatMap((line) => line.y), last = Math.max(...drawn.flatMap((line) => line.epochs));
    let low = Math.min(...values), high = Math.max(...values);
    if (low > 0 && low < high / 2 && !name.includes("accuracy")) low = 0;
    if (low === high) { low -= 1; high += 1; }
    const x = (epoch) => left + (last > 1 ? (epoch - 1) / (last - 1) : 0.5) * (width - left - right);
    const y = (one) => height - bottom - (one - low) / (high - low) * (height - top - bottom);
    const title = `${name.replaceAll("_", " ")}${name.includes("accuracy") ? ", %" : ""}`;
    return el("figure", { class: "chart" }, svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `${title} per epoch: ${drawn.map((line) => `${line.label} ends at ${line.y.at(-1).toPrecision(4)}`).join(", ")}` },
      ...ticks(low, high, 4).flatMap((tick) => [
        svg("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
        svg("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(tick))]),
      ...ticks(1, last, 5).filter(Number.isInteger).map((tick) =>
        svg("text", { x: x(tick), y: height - bottom + 15, "text-anchor": "middle" }, String(tick))),
      svg("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, "epoch"),
      ...drawn.map((line) => line.y.length > 1
        ? svg("polyline", { points: line.y.map((one, at) => `${x(line.epochs[at]).toFixed(1)},${y(one).toFixed(1)}`).join(" "),
          ...style(line.index) })
        : svg("circle", { cx: x(line.epochs[0]), cy: y(line.y[0]), r: 3, fill: style(line.index).stroke }))),
    el("figcaption", {}, title));
  }
})();
