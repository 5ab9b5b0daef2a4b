"use strict";
(function () {
  var figures = JSON.parse(document.getElementById("figures").textContent);
  var dark = matchMedia("(prefers-color-scheme: dark)");
  var touch = matchMedia("(pointer: coarse)").matches;
  var SHEET = 700; // pixels that fit on one

  function palette(printing) {
    if (printing || !dark.matches) {
      return { text: printing ? "#000000" : "#1d2228", grid: "#e3e7eb", line: "#b9c1c9", ground: "#ffffff" };
    }
    return { text: "#e4e8ec", grid: "#2c343c", line: "#4a545e", ground: "#1d2329" };
  }

  function themed(width, printing) {
    var colours = palette(printing);
    var changed = {
      "font.color": colours.text,
      "font.size": width < 480 ? 11 : 13,
      "hoverlabel.bgcolor": colours.ground,
      "hoverlabel.bordercolor": colours.line,
      "hoverlabel.font.color": colours.text,
    };
    ["xaxis", "yaxis"].forEach(function (axis) {
      changed[axis + ".gridcolor"] = colours.grid;
      changed[axis + ".zerolinecolor"] = colours.line;
      changed[axis + ".linecolor"] = colours.line;
    });
    return changed;
  }

  // Names of layers beside bars take no more than two fifths of a narrow screen: their ends stay.
  function fitted(figure, width) {
    var names = figure.names;
    if (!names) return {};
    var room = Math.min(figure.left, Math.round(0.4 * width));
    var letters = Math.floor((room - 16) / 6.6);
    return {
      "margin.l": room,
      "yaxis.tickmode": "array",
      "yaxis.tickvals": names,
      "yaxis.ticktext": names.map(function (name) {
        return room === figure.left || name.length <= letters ? name : "…" + name.slice(1 - letters);
      }),
    };
  }

  function update(id, width, printing) {
    var place = document.getElementById(id);
    var changed = Object.assign(themed(width, printing), fitted(figures[id], width));
    changed.width = width;
    return Plotly.relayout(place, changed);
  }

  function updateAll(printing) {
    Object.keys(figures).forEach(function (id) {
      var place = document.getElementById(id);
      var sheet = place.closest(".many") ? SHEET / 2 - 12 : SHEET;
      update(id, printing ? sheet : place.parentElement.clientWidth, printing);
    });
  }

  // On paper nothing can be unfolded.
  function unfold(printing) {
    document.querySelectorAll("details").forEach(function (one) {
      if (printing) one.dataset.before = one.open ? "open" : "";
      one.open = printing || one.dataset.before === "open";
    });
  }

  function offer(id, place) {
    var menu = figures[id].menu;
    if (!menu) return;
    var label = document.createElement("label");
    var select = document.createElement("select");
    label.textContent = menu.title;
    menu.choices.forEach(function (choice) {
      var option = document.createElement("option");
      option.textContent = choice.label;
      select.appendChild(option);
    });
    select.addEventListener("change", function () {
      var choice = menu.choices[select.selectedIndex];
      Plotly.restyle(place, choice.traces, menu.trace === null ? undefined : [menu.trace]);
      Plotly.relayout(place, choice.layout).then(function () {
        return update(id, place.parentElement.clientWidth, false);
      });
    });
    label.appendChild(select);
    place.parentElement.querySelector(".menu").appendChild(label);
  }

  // What a point that is clicked on is, as text below its chart.
  function tell(id, place) {
    var details = figures[id].details;
    if (!details) return;
    place.on("plotly_click", function (event) {
      var point = event.points[0];
      var said = (details[point.curveNumber] || [])[point.pointNumber];
      var below = place.parentElement.querySelector(".detail");
      below.hidden = !said;
      below.textContent = said || "";
    });
  }

  Object.keys(figures).forEach(function (id) {
    var place = document.getElementById(id);
    var found = figures[id].figure;
    var layout = Object.assign({}, found.layout, { dragmode: touch ? false : "zoom" });
    Plotly.newPlot(place, found.data, layout, { displayModeBar: false, showTips: false }).then(function () {
      return update(id, place.parentElement.clientWidth, false);
    }).then(function () {
      place.setAttribute("data-drawn", "yes");
      tell(id, place);
    });
    offer(id, place);
  });

  var waiting = 0;
  window.addEventListener("resize", function () {
    clearTimeout(waiting);
    waiting = setTimeout(function () { updateAll(false); }, 120);
  });
  dark.addEventListener("change", function () { updateAll(false); });
  window.addEventListener("beforeprint", function () { unfold(true); updateAll(true); });
  window.addEventListener("afterprint", function () { unfold(false); updateAll(false); });
})();
