// Loaded before the page is drawn, so that the wrong theme never flashes. The default is the system's theme.
(function () {
  "use strict";
  try {
    const theme = localStorage.getItem("optima-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be disabled; then the system's theme is used.
  }
})();
