// Draws the charts of a report page. Each chart is Vega-Lite in a block of JSON in its figure.
"use strict";
(() => {
  const tip = document.getElementById("tip");

  function showTip(handler, event, item, value) {
    if (value === null || value === undefined || value === "") {
      tip.hidden = true;
      return;
    }
    const entries = typeof value === "object" ? Object.entries(value) : [["", value]];
    tip.replaceChildren(
      ...entries.flatMap(([name, text]) => {
        const label = document.createElement("dt");
        const number = document.createElement("dd");
        label.textContent = name;
        number.textContent = String(text);
        return [label, number];
      }),
    );
    tip.hidden = false;
    const gap = 14;
    const wide = document.documentElement.clientWidth;
    const left = Math.min(event.clientX + gap, wide - tip.offsetWidth - gap);
    const above = event.clientY - tip.offsetHeight - gap;
    tip.style.left = `${Math.max(gap, left)}px`;
    tip.style.top = `${above > gap ? above : event.clientY + gap}px`;
  }

  for (const block of document.querySelectorAll("script[data-chart]")) {
    const place = block.parentElement.querySelector(".chart");
    vegaEmbed(place, JSON.parse(block.textContent), {
      mode: "vega-lite",
      renderer: "svg",
      actions: false,
      ast: true, // expressions are interpreted: the page's policy forbids to compile them
      defaultStyle: false,
      hover: true,
      tooltip: showTip,
    });
  }

  document.addEventListener("scroll", () => (tip.hidden = true), { passive: true });
  // a printed page has another width than the window
  const redraw = () => window.dispatchEvent(new Event("resize"));
  window.matchMedia("print").addEventListener("change", redraw);
})();
