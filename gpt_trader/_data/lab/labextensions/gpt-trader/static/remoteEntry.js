/* Launcher cards for gpt_trader: a new procedure, feature, report or playbook.
 *
 * JupyterLab loads a prebuilt extension as a module-federation container: an object with init(shared scope) and get(module). This one is
 * small enough to be read, so it is written by hand and needs no build. A card asks for a name, and the server makes the notebook by the
 * function that `gpt-trader new` uses.
 */
"use strict";
(() => {
  let scope = {};

  /* The module that the running JupyterLab itself uses. */
  const shared = async name => {
    const versions = Object.values(scope[name] || {});
    const used = versions.find(v => v.loaded) || versions[0];
    if (!used) throw new Error(`this JupyterLab shares no ${name}`);
    return (await used.get())();
  };

  const icon = path => `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" width="24"><g class="jp-icon3" ` +
    `style="fill:none" stroke="#616161" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round">${path}</g></svg>`;

  const KINDS = {
    procedure: {
      label: "New procedure", example: "check_fills", svg: icon('<path d="M5 3h14v18H5zM8.5 8h7M8.5 12h7M8.5 16h4"/>'),
      caption: "A notebook with typed parameters, run by gpt-trader, that ends in a verdict"
    },
    feature: {
      label: "New feature", example: "overnight_share_21", svg: icon('<path d="M3 20h18M4 15l5-6 4 4 7-9M15 4h5v5"/>'),
      caption: "A measurement of the price panel: its formula, its test against looking ahead, its worth"
    },
    report: {
      label: "New report", example: "weekly_review", svg: icon('<path d="M4 20V4h16v16zM8 16v-3M12 16V8M16 16v-5"/>'),
      caption: "Figures and plots over a period, filed under reports/"
    },
    playbook: {
      label: "New playbook", example: "stale_data", svg: icon('<path d="M6 4v4M6 8h6v4M12 12h6v4M4 4h4M18 16v4M16 20h4"/>'),
      caption: "From an alert to a diagnosis to a decision, by procedures that it runs"
    }
  };

  const extension = async () => {
    const [{ ILauncher }, apputils, { ServerConnection }, { URLExt }, { LabIcon }] = await Promise.all([
      shared("@jupyterlab/launcher"), shared("@jupyterlab/apputils"), shared("@jupyterlab/services"), shared("@jupyterlab/coreutils"),
      shared("@jupyterlab/ui-components")
    ]);
    const { ICommandPalette, InputDialog, Notification, showErrorMessage } = apputils;
    for (const [kind, k] of Object.entries(KINDS)) k.icon = new LabIcon({ name: `gpt-trader:${kind}`, svgstr: k.svg });

    /* Ask the server for the notebook; its path, or an Error with the server's sentence. */
    const make = async (kind, name) => {
      const settings = ServerConnection.makeSettings();
      const answer = await ServerConnection.makeRequest(
        URLExt.join(settings.baseUrl, "gpt-trader", "new"), { method: "POST", body: JSON.stringify({ kind, name }) }, settings);
      const told = await answer.json().catch(() => ({}));
      if (!answer.ok) throw new Error(told.message || `the server answered with ${answer.status}`);
      return told;
    };

    const activate = (app, launcher, palette) => {
      const command = "gpt-trader:new";
      const of = args => KINDS[args.kind] || KINDS.procedure;
      app.commands.addCommand(command, {
        label: args => of(args).label,
        caption: args => of(args).caption,
        icon: args => of(args).icon,
        describedBy: { args: { type: "object", properties: { kind: { type: "string", enum: Object.keys(KINDS) } } } },
        execute: async args => {
          const kind = args.kind in KINDS ? args.kind : "procedure";
          const asked = await InputDialog.getText({ title: KINDS[kind].label, label: "Its name, in small letters with underscores",
                                                    placeholder: KINDS[kind].example, okLabel: "Make it" });
          if (!asked.button.accept || !(asked.value || "").trim()) return;
          try {
            const made = await make(kind, asked.value.trim());
            if (made.note) Notification.info(made.note);
            await app.commands.execute("docmanager:open", { path: made.path, factory: "Notebook" });
          } catch (error) {
            await showErrorMessage(KINDS[kind].label, String(error.message || error));
          }
        }
      });
      Object.keys(KINDS).forEach((kind, rank) => {
        if (launcher) launcher.add({ command, args: { kind }, category: "gpt_trader", rank });
        if (palette) palette.addItem({ command, args: { kind }, category: "gpt_trader" });
      });
    };

    return {
      __esModule: true,
      default: { id: "gpt-trader:launcher", description: "Launcher cards for a new procedure, feature, report and playbook", autoStart: true,
                 optional: [ILauncher, ICommandPalette], activate }
    };
  };

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB["gpt-trader"] = {
    init: given => { scope = given; },
    get: async name => {
      if (name !== "./extension") throw new Error(`gpt-trader has no module ${name}`);
      const made = await extension();
      return () => made;
    }
  };
})();
