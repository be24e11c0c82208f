(function () {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  function theme(layout) {
    const ink = dark.matches ? "#c7cedb" : "#344054", grid = dark.matches ? "#2c3340" : "#e6e9ef";
    const out = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": ink, "legend.bgcolor": "rgba(0,0,0,0)",
      "modebar.bgcolor": "rgba(0,0,0,0)", "modebar.color": grid, "modebar.activecolor": ink };
    const axes = new Set(["xaxis", "yaxis"].concat(Object.keys(layout).filter(k => /^[xy]axis\d*$/.test(k))));
    axes.forEach(a => { out[a + ".gridcolor"] = grid; out[a + ".linecolor"] = grid; out[a + ".zerolinecolor"] = grid; });
    return out;
  }
  document.querySelectorAll(".plot").forEach(function (box) {
    const fig = JSON.parse(box.querySelector("script").textContent), layout = Object.assign({ autosize: true }, fig.layout || {});
    layout.colorway = layout.colorway || ["#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#06b6d4", "#ec4899", "#84cc16"];
    layout.margin = Object.assign({ l: 56, r: 18, t: layout.title ? 48 : 18, b: 44 }, layout.margin || {});
    layout.font = Object.assign({ family: "system-ui, sans-serif", size: 12 }, layout.font || {});
    layout.legend = Object.assign({ orientation: "h", y: -0.14, yanchor: "top", x: 0 }, layout.legend || {});
    if (layout.title) layout.title = Object.assign({ x: 0, xref: "paper", xanchor: "left", font: { size: 15 } }, typeof layout.title === "string" ? { text: layout.title } : layout.title);
    delete layout.width;
    box.textContent = "";
    Plotly.newPlot(box, fig.data || [], layout, { responsive: true, displaylogo: false, displayModeBar: window.matchMedia("(hover: hover)").matches ? "hover" : false })
      .then(() => Plotly.relayout(box, theme(layout)));
    dark.addEventListener("change", () => Plotly.relayout(box, theme(layout)));
  });
})();
