"use strict";
// Filters and orders the cards, and shows the row behind one. Texts only ever become text nodes.
(() => {
  const $ = (id) => document.getElementById(id);
  const rows = JSON.parse($("rows").textContent);
  const entries = [...document.querySelectorAll(".entry")];
  const words = entries.map((entry) => entry.textContent.toLowerCase());
  entries.forEach((entry, place) => { entry.dataset.place = place; });
  const visible = () => entries.filter((entry) => !entry.hidden);

  const filter = () => {
    const wanted = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    entries.forEach((entry, at) => { entry.hidden = !wanted.every((word) => words[at].includes(word)); });
    const shown = visible().length;
    $("shown").textContent = wanted.length ? `${shown} of ${entries.length} cards` : `${entries.length} cards`;
    $("nothing").hidden = shown > 0 || entries.length === 0;
    document.querySelectorAll("main section").forEach((section) => {
      section.hidden = wanted.length > 0 && !section.querySelector(".entry:not([hidden])");
    });
  };

  const number = (entry, name) => (entry.dataset[name] === "" ? Infinity : Number(entry.dataset[name]));
  const orders = {
    "": (a, b) => a.dataset.place - b.dataset.place,
    key: (a, b) => a.dataset.key.localeCompare(b.dataset.key, "en", { numeric: true }),
    similarity: (a, b) => number(a, "similarity") - number(b, "similarity"),
    logprob: (a, b) => number(a, "logprob") - number(b, "logprob"),
    length: (a, b) => number(b, "length") - number(a, "length"),
  };
  const order = () => {
    const compare = orders[$("order").value];
    for (const list of document.querySelectorAll(".gallery")) {
      list.append(...[...list.children].sort((a, b) => compare(a, b) || orders[""](a, b)));
    }
  };

  let open = null;
  const show = (button) => {
    open = button;
    const row = rows[button.dataset.row];
    $("row-key").textContent = row.key;
    const picture = button.querySelector(".picture");
    $("row-picture").replaceChildren(...(picture ? [picture.cloneNode(true)] : []));
    $("row-fields").replaceChildren(...row.fields.flatMap(([name, text]) => {
      const term = document.createElement("dt");
      const value = document.createElement("dd");
      term.textContent = name;
      value.textContent = text;
      value.dir = "auto";
      return [term, value];
    }));
    if (!$("row").open) $("row").showModal();
    $("row-fields").scrollTop = 0;
  };
  const step = (by) => {
    const buttons = [...document.querySelectorAll(".entry:not([hidden]) .open")];
    const next = buttons[buttons.indexOf(open) + by];
    if (next) show(next);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".open");
    if (button) show(button);
    else if (event.target === $("row")) $("row").close();
  });
  $("close").addEventListener("click", () => $("row").close());
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("row").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  $("row").addEventListener("close", () => { if (open) open.focus(); });
  $("words").addEventListener("input", filter);
  $("order").addEventListener("change", order);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, dialog");
    if (event.key === "/" && !typing) { event.preventDefault(); $("words").focus(); }
  });
  // Browsers keep what was typed when a page is loaded again.
  filter();
  order();
})();
