/** The API reference: Swagger UI over the server's own OpenAPI document. */
import SwaggerUI from "swagger-ui-dist/swagger-ui-es-bundle.js";
import bundledLicenses from "swagger-ui-dist/swagger-ui-es-bundle.js.LICENSE.txt?url";
import "swagger-ui-dist/swagger-ui.css";
import "./docs.css";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const followScheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", followScheme);
followScheme();

SwaggerUI({
  url: "/schema/openapi.json",
  domNode: document.getElementById("reference"),
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // The hosted validator would send the document to another host.
  validatorUrl: null,
});

document.getElementById("bundled-licenses")?.setAttribute("href", bundledLicenses);
