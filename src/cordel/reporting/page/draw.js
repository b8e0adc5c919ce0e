"use strict";
// Draws every chart of the page, one after the other, so that the page can be read meanwhile.
(async () => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const options = {
    renderer: "svg", actions: false, config: charts.config, formatLocale: charts.locale,
    tooltip: { disableDefaultStyle: true },
  };
  for (const [name, spec] of Object.entries(charts.specs)) {
    const place = document.getElementById(`chart-${name}`);
    // A legend wraps no names: as many stand in a row as there is room for beside the axis.
    const { y } = (spec.layer?.[0] ?? spec).encoding;
    const room = place.clientWidth - (y.type === "nominal" ? 160 : 50);
    charts.config.legend.columns = Math.max(1, Math.floor(room / 155));
    await vegaEmbed(place, spec, options);
  }
  document.documentElement.dataset.drawn = "true";
})();
// A figure says where it is from when it is pointed at.
document.addEventListener("mouseover", (event) => {
  const found = event.target.closest("[data-source]");
  if (found && !found.title) found.title = found.dataset.source;
});
// Paper shows what a click would.
window.addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details.prompt")) part.open = true;
});
const wide = matchMedia("(min-width: 75rem)");
const contents = document.querySelector("nav details");
const fold = () => { contents.open = wide.matches; };
wide.addEventListener("change", fold);
fold();
