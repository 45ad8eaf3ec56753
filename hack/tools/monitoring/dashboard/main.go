// SPDX-License-Identifier: Apache-2.0

// Command dashboard prints the Grafana dashboard of fogsched as JSON, for Grafana 10 and newer.
//
// hack/update-monitoring.sh writes it to manifests/components/monitoring/dashboard.json.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

func run() error {
	b := dashboard.NewDashboardBuilder("fogsched").
		Uid("fogsched").
		Description("Placement by measured latency: is it working, how far apart the nodes are, which limits hold, and what it costs.").
		Tags([]string{"fogsched", "kubernetes", "scheduler"}).
		Refresh("30s").
		Time("now-3h", "now").
		Timezone("browser").
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Link(dashboard.NewDashboardLinkBuilder("What the alerts mean").
			Type(dashboard.DashboardLinkTypeLink).TargetBlank(true).
			Url("https://github.com/fogsched/fogsched/blob/main/docs/monitoring.md"))
	for _, v := range variables() {
		b.WithVariable(v)
	}
	for _, r := range rows() {
		b.WithRow(dashboard.NewRowBuilder(r.title))
		for _, p := range r.panels {
			b.WithPanel(p.builder())
		}
	}
	d, err := b.Build()
	if err != nil {
		return err
	}
	d.SchemaVersion = schemaVersion
	id := uint32(0)
	for i := range d.Panels { // the builder numbers none, and Grafana's links to a panel need a number that stays
		id++
		if p := d.Panels[i].Panel; p != nil {
			p.Id = cog.ToPtr(id)
		} else {
			d.Panels[i].RowPanel.Id = id
		}
	}
	if err := d.Validate(); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(d)
}

// schemaVersion is that of Grafana 10; a newer Grafana takes it further by itself.
const schemaVersion = 39

var datasource = common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}

func variables() []cog.Builder[dashboard.VariableModel] {
	query := func(q string) dashboard.StringOrMap {
		return dashboard.StringOrMap{Map: map[string]any{"qryType": 1, "query": q, "refId": "PrometheusVariableQueryEditor-VariableQuery"}}
	}
	return []cog.Builder[dashboard.VariableModel]{
		dashboard.NewDatasourceVariableBuilder("datasource").Label("Prometheus").Type("prometheus"),
		dashboard.NewQueryVariableBuilder("namespace").Label("Namespace").Datasource(datasource).
			Description("The one that fogsched runs in.").
			Query(query("label_values(fogsched_store_nodes, namespace)")).
			Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortAlphabeticalAsc),
		dashboard.NewQueryVariableBuilder("node").Label("Node").Datasource(datasource).
			Description("Nodes that run a fogprobe. The panels of probers and distances show these.").
			Query(query(`label_values(fogsched_probe_peers{namespace="$namespace"}, node)`)).
			Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortAlphabeticalAsc).
			Multi(true).IncludeAll(true).AllValue(".*").
			Current(dashboard.VariableOption{
				Selected: cog.ToPtr(true),
				Text:     dashboard.StringOrArrayOfString{String: cog.ToPtr("All")}, Value: dashboard.StringOrArrayOfString{String: cog.ToPtr("$__all")},
			}),
	}
}

type row struct {
	title  string
	panels []panel
}

// panel is one panel. Its description says what a bad value means and what to do.
type panel struct {
	kind        kind
	title       string
	description string
	unit        string
	width       uint32 // of 24
	targets     []target
	// steps are values from which on a colour holds, for kind number; the first holds from minus infinity.
	steps []step
	// stacked stacks the series of kind series.
	stacked bool
	// share says that the values are 0 to 1.
	share bool
}

type kind int

const (
	series kind = iota
	number
	list
)

type target struct{ legend, expr string }

type step struct {
	from   float64
	colour string
}

func (p panel) builder() cog.Builder[dashboard.Panel] {
	switch p.kind {
	case number:
		b := stat.NewPanelBuilder().Title(p.title).Description(p.description).Unit(p.unit).Datasource(datasource).
			Span(p.width).Height(4).NoValue("no data").
			GraphMode(common.BigValueGraphModeArea).ColorMode(common.BigValueColorModeValue).
			ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"}))
		steps := []dashboard.Threshold{}
		for i, s := range p.steps {
			t := dashboard.Threshold{Color: s.colour}
			if i > 0 {
				t.Value = cog.ToPtr(s.from)
			}
			steps = append(steps, t)
		}
		b.Thresholds(dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(steps))
		for i, t := range p.targets {
			b.WithTarget(t.query(i).Range())
		}
		return b
	case list:
		b := table.NewPanelBuilder().Title(p.title).Description(p.description).Unit(p.unit).Datasource(datasource).
			Span(p.width).Height(8).NoValue("no data").
			SortBy([]cog.Builder[common.TableSortByFieldState]{common.NewTableSortByFieldStateBuilder().DisplayName("RTT").Desc(true)}).
			WithTransformation(dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{
				"excludeByName": map[string]bool{
					"Time": true, "__name__": true, "container": true, "endpoint": true, "instance": true, "job": true, "namespace": true, "node": true,
					"pod": true, "statistic": true,
				},
				"indexByName":  map[string]int{"source_node_name": 0, "source_zone": 1, "dest_node_name": 2, "dest_zone": 3, "Value": 4},
				"renameByName": map[string]string{"source_node_name": "from", "source_zone": "zone", "dest_node_name": "to", "dest_zone": "its zone", "Value": "RTT"},
			}})
		for i, t := range p.targets {
			b.WithTarget(t.query(i).Instant().Format(prometheus.PromQueryFormatTable))
		}
		return b
	default:
		b := timeseries.NewPanelBuilder().Title(p.title).Description(p.description).Unit(p.unit).Datasource(datasource).
			Span(p.width).Height(8).Min(0).NoValue("no data").
			LineWidth(1).FillOpacity(10).ShowPoints(common.VisibilityModeNever).
			Legend(common.NewVizLegendOptionsBuilder().ShowLegend(true).DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom)).
			Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending))
		if p.stacked {
			b.Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal))
		}
		if p.share {
			b.Max(1)
		}
		for i, t := range p.targets {
			b.WithTarget(t.query(i).Range())
		}
		return b
	}
}

func (t target) query(i int) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(datasource).RefId(string(rune('A' + i))).Expr(t.expr).LegendFormat(t.legend)
}
