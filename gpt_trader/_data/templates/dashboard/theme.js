// Before anything is drawn: the theme that the reader chose here last, else the system's.
try {
  const chosen = localStorage.getItem("gt-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch (error) { document.documentElement.dataset.theme = ""; }
