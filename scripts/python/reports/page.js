// Draws the figures of a page: in the colours of the reader's scheme, when they come near the window, over the x axis that the reader chose.
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const hidden = new Set();
  const FONT = 'system-ui, "Segoe UI", "DejaVu Sans", sans-serif';
  let axis = page.axis ? page.axis.start : null;

  const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(", ");

  // "model3", "soft/0.2", "sequential": the names that charts have for colours.
  function colour(name, scheme) {
    if (typeof name !== "string") return name;
    const [key, share] = name.split("/");
    const found = scheme[key];
    return found === undefined ? name : share === undefined ? found : `rgba(${channels(found)}, ${share})`;
  }

  // A copy in which every colour is one of the scheme. Only what stands under a key for colours is a colour: the name of a run never is.
  function coloured(value, scheme, of_colour = false) {
    if (Array.isArray(value)) return of_colour || typeof value[0] === "object" ? value.map((item) => coloured(item, scheme, of_colour)) : value.slice();
    if (value === null || typeof value !== "object") return of_colour ? colour(value, scheme) : value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, scheme, /color/.test(key) && key !== "colorbar")]));
  }

  // Where a step lies on the chosen axis: the tables hold only the steps where the slope changes.
  function place(table, step) {
    if (axis === "step") return step;
    const steps = table.step, values = table[axis];
    let low = 0, high = steps.length - 1;
    if (high === 0) return values[0];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] <= step) low = middle; else high = middle;
    }
    return values[low] + ((step - steps[low]) / (steps[high] - steps[low])) * (values[high] - values[low]);
  }

  function place_traces(figure) {
    for (const trace of figure.data) {
      trace.customdata = trace.customdata || trace.x;
      trace.x = trace.customdata.map((step) => place(page.axis.tables[trace.meta.track], step));
    }
    Object.assign(figure.layout.xaxis, page.axis.layout[axis]);
    figure.layout.xaxis.range = page.axis.range[axis].slice();
  }

  function base(scheme) {
    const line = { gridcolor: scheme.line, zerolinecolor: scheme.edge, linecolor: scheme.edge, tickcolor: scheme.edge, automargin: true, tickfont: { size: 12 } };
    return {
      font: { family: FONT, size: 12, color: scheme.ink },
      paper_bgcolor: scheme.panel, plot_bgcolor: scheme.panel, dragmode: touch ? false : "zoom", hovermode: "closest", showlegend: false,
      margin: { l: 48, r: 22, t: 30, b: 40 }, xaxis: { ...line, zeroline: false }, yaxis: line,
      hoverlabel: { bgcolor: scheme.panel, bordercolor: scheme.edge, font: { color: scheme.ink, size: 13 }, align: "left", namelength: -1 },
    };
  }

  function merged(under, over) {
    const out = { ...under };
    for (const [key, value] of Object.entries(over)) {
      const both = value && under[key] && typeof value === "object" && typeof under[key] === "object" && !Array.isArray(value);
      out[key] = both ? merged(under[key], value) : value;
    }
    return out;
  }

  // What hovering over a cell of a matrix tells: the names of its row and column, its interval, how many things are behind it.
  function name_cells(trace) {
    const { x, y, low, high, n, told } = trace.meta.cells, known = (value) => value !== null && value !== undefined;
    const behind = known(n) ? `<br>n = ${n.toLocaleString("en")}` : "";
    trace.customdata = trace.z.map((row, i) => row.map((_, j) => [x[j], y[i], (low && known(low[i][j]) && known(high[i][j]) ? `<br>95 % interval ${low[i][j]} … ${high[i][j]}` : "") + behind + (told ? told[i][j] : "")]));
  }

  function prepared(index) {
    const scheme = page.schemes[dark.matches ? "dark" : "light"];
    const figure = coloured(page.figures[index], scheme);
    figure.layout = merged(base(scheme), figure.layout);
    if (page.axis && figure.along_run) place_traces(figure);
    for (const trace of figure.data) if (trace.meta && trace.meta.cells) name_cells(trace);
    for (const trace of figure.data) if (trace.meta && hidden.has(trace.meta.model)) trace.visible = false;
    return figure;
  }

  const pen = document.createElement("canvas").getContext("2d");
  function measure(label) {
    pen.font = `12px ${FONT}`;
    return pen.measureText(label.replace(/&[a-z0-9#]+;/g, "x")).width;
  }

  // Labels of events stand on the side where there is room. One that would lie on another goes; its mark stays and tells it on hovering.
  function unclutter(plot) {
    const taken = [];
    const x = plot._fullLayout.xaxis, y = plot._fullLayout.yaxis;
    plot.data.forEach((trace, i) => {
      if (!trace.meta || !trace.meta.labels || trace.visible === false) return;
      const sides = [];
      const shown = trace.meta.labels.map((label, j) => {
        const width = measure(label) + 10, at = x.d2p(trace.x[j]), top = y.d2p(trace.y[j]);
        const left = at + width > x._length ? at - width : at;
        const free = at >= 0 && at <= x._length && taken.every((box) => left + width < box[0] || left > box[1] || Math.abs(top - box[2]) > 18);
        if (free) taken.push([left, left + width, top]);
        sides.push(left < at ? "top left" : "top right");
        return free ? label : "";
      });
      if (String(shown) !== String(trace.text) || String(sides) !== String(trace.textposition)) Plotly.restyle(plot, { text: [shown], textposition: [sides] }, [i]);
    });
  }

  // A finger scrolls the page, so it cannot draw a zoom: it has the buttons instead.
  const needless = touch ? ["zoom2d", "pan2d"] : ["zoomIn2d", "zoomOut2d", "autoScale2d"];
  const config = { responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ["lasso2d", "select2d", ...needless], toImageButtonOptions: { scale: 2 } };

  function draw(plot) {
    const figure = prepared(Number(plot.dataset.figure));
    const labelled = figure.data.some((trace) => trace.meta && trace.meta.labels);
    return Plotly.react(plot, figure.data, figure.layout, config).then(() => {
      if (labelled) unclutter(plot);
      if (labelled && !plot.dataset.drawn) plot.on("plotly_afterplot", () => unclutter(plot));
      plot.dataset.drawn = "1";
    });
  }

  const plots = [...document.querySelectorAll(".plot")];
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting && !entry.target.dataset.drawn) draw(entry.target);
  }, { rootMargin: "600px" });
  const draw_again = () => plots.filter((plot) => plot.dataset.drawn).forEach(draw);
  plots.forEach((plot) => near.observe(plot));
  dark.addEventListener("change", draw_again);
  addEventListener("beforeprint", () => plots.filter((plot) => !plot.dataset.drawn).forEach(draw));

  document.querySelectorAll(".legend button").forEach((button) => button.addEventListener("click", () => {
    const model = Number(button.dataset.model), shown = hidden.delete(model);
    if (!shown) hidden.add(model);
    button.setAttribute("aria-pressed", String(shown));
    document.querySelectorAll("figure[data-model]").forEach((figure) => { figure.hidden = hidden.has(Number(figure.dataset.model)); });
    draw_again();
  }));
  document.querySelectorAll(".choice input").forEach((input) => input.addEventListener("change", () => {
    axis = input.value;
    draw_again();
  }));
})();
