// Draws the figures of a page in the colours of the theme that the reader chose, and again when the choice changes.
(function () {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  function dark() {
    const chosen = document.body.dataset.theme;
    return chosen === "dark" || (chosen !== "light" && system.matches);
  }
  function colours(layout) {
    const ink = dark() ? "#c7cedb" : "#344054", grid = dark() ? "#3a414d" : "#e1e5eb";
    const out = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": ink, "legend.bgcolor": "rgba(0,0,0,0)" };
    const axes = new Set(["xaxis", "yaxis"].concat(Object.keys(layout).filter(k => /^[xy]axis\d*$/.test(k))));
    axes.forEach(a => { out[a + ".gridcolor"] = grid; out[a + ".linecolor"] = grid; out[a + ".zerolinecolor"] = grid; });
    return out;
  }
  function draw() {
    document.querySelectorAll(".gt-plot").forEach(function (box) {
      const figure = JSON.parse(box.querySelector("script").textContent), layout = Object.assign({ autosize: true }, figure.layout || {});
      layout.colorway = layout.colorway || ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8c7a00", "#7f7f7f"];
      layout.margin = Object.assign({ l: 56, r: 18, t: layout.title ? 48 : 18, b: 44 }, layout.margin || {});
      layout.font = Object.assign({ family: "system-ui, sans-serif", size: 12 }, layout.font || {});
      layout.legend = Object.assign({ orientation: "h", y: -0.14, yanchor: "top", x: 0 }, layout.legend || {});
      delete layout.width;
      box.replaceChildren();
      Plotly.newPlot(box, figure.data || [], layout, { responsive: true, displaylogo: false, displayModeBar: false })
        .then(() => Plotly.relayout(box, colours(layout)));
      const again = () => Plotly.relayout(box, colours(layout));
      system.addEventListener("change", again);
      new MutationObserver(again).observe(document.body, { attributes: true, attributeFilter: ["data-theme"] });
    });
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", draw); else draw();
})();
