// Loaded before the page is drawn, so that a chosen theme never flashes. Without a choice the system's counts.
(function () {
  "use strict";
  try {
    const theme = localStorage.getItem("optima-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be forbidden; the system's theme is then the only one.
  }
})();
