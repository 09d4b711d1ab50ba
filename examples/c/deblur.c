/* The element in a C program: plays a video file through osdddeblur.
 *
 *     cc -Wall -Wextra -o deblur deblur.c $(pkg-config --cflags --libs gstreamer-1.0)
 *     ./deblur FILE [GAMMA [SINK]]
 *
 * GStreamer must find the plugin: `make install`, or GST_PLUGIN_PATH=target/release.
 */
#include <gst/gst.h>

/* Plays to the end; FALSE when an error came first, which is then printed. */
static gboolean play(GstElement *pipeline)
{
    const GstMessageType wanted = GST_MESSAGE_EOS | GST_MESSAGE_ERROR | GST_MESSAGE_WARNING | GST_MESSAGE_LATENCY;
    GstBus *bus = gst_element_get_bus(pipeline);
    gboolean playing = TRUE, good = TRUE;

    /* Where the state change fails, the message that says why is on the bus. */
    gst_element_set_state(pipeline, GST_STATE_PLAYING);
    while (playing) {
        GstMessage *message = gst_bus_timed_pop_filtered(bus, GST_CLOCK_TIME_NONE, wanted);
        GError *error = NULL;

        if (GST_MESSAGE_TYPE(message) == GST_MESSAGE_LATENCY) {
            gst_bin_recalculate_latency(GST_BIN(pipeline));
        } else if (GST_MESSAGE_TYPE(message) == GST_MESSAGE_WARNING) {
            gst_message_parse_warning(message, &error, NULL);
            g_printerr("deblur: warning: %s\n", error->message);
        } else {
            playing = FALSE;
            if (GST_MESSAGE_TYPE(message) == GST_MESSAGE_ERROR) {
                gst_message_parse_error(message, &error, NULL);
                g_printerr("deblur: %s\n", error->message);
                good = FALSE;
            }
        }
        g_clear_error(&error);
        gst_message_unref(message);
    }
    gst_object_unref(bus);
    return good;
}

int main(int argc, char **argv)
{
    GError *error = NULL;
    GstElement *pipeline, *source, *deblur;
    gchar *launch;
    gboolean good;

    gst_init(&argc, &argv);
    if (argc < 2 || argc > 4) {
        g_printerr("usage: deblur FILE [GAMMA [SINK]]\n");
        return 2;
    }
    launch = g_strdup_printf("filesrc name=source ! decodebin ! osdddeblur name=deblur ! videoconvert ! %s",
                             argc > 3 ? argv[3] : "autovideosink");
    pipeline = gst_parse_launch_full(launch, NULL, GST_PARSE_FLAG_FATAL_ERRORS, &error);
    g_free(launch);
    if (pipeline == NULL) {
        g_printerr("deblur: %s; is the plugin installed?\n", error->message);
        g_clear_error(&error);
        return 1;
    }

    /* Properties are set by name, these before the start and gamma also while it plays. */
    source = gst_bin_get_by_name(GST_BIN(pipeline), "source");
    g_object_set(source, "location", argv[1], NULL);
    gst_object_unref(source);
    deblur = gst_bin_get_by_name(GST_BIN(pipeline), "deblur");
    g_object_set(deblur, "gamma", argc > 2 ? CLAMP(g_ascii_strtod(argv[2], NULL), 0.0, 1.0) : 0.7, NULL);
    gst_object_unref(deblur);

    good = play(pipeline);
    gst_element_set_state(pipeline, GST_STATE_NULL);
    gst_object_unref(pipeline);
    return good ? 0 : 1;
}
